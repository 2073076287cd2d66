"""Starting drd-serve on the command line: its output, and its errors."""

import asyncio
import errno
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from annotated_types import Le

from export.bundle import program_version
from service.app import open_service
from service.client import Client, Frame
from service.listen import CannotListen, listen, name_of
from service.settings import Address, Settings
from tests.bundles import edit_manifest, make_bundle
from tests.e2e.serving import ANYWHERE, drd_serve, process, serving, wait_until, without_settings
from tests.service.images import plain

REPOSITORY = Path(__file__).parents[2]


def test_the_printed_line_works_as_it_is(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    with process("--models", tmp_path, "--admin", ANYWHERE, "--http", f"unix:{tmp_path}/camera") as service:
        curl = service.lines[-1].removeprefix("try").strip()
        answer = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True).stdout
        admin = next(line.split()[1] for line in service.lines if line.startswith("admin"))
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{tmp_path}/camera")) as camera:
            over_unix = camera.post("http://camera/v1/inspect?product=tile", content=plain(200))
        assert httpx.get(f"{admin}/health/ready").status_code == 200
        assert "drd_ready 1.0" in httpx.get(f"{admin}/metrics").text
        assert httpx.post(f"{admin}/v1/inspect?product=tile", content=plain(1)).status_code == 404

    assert '"verdict":"NG"' in answer
    assert over_unix.json()["verdict"] == "NG"
    assert any("tile version 1: READY, onnx-f32" in line for line in service.lines)


def test_the_printed_line_shows_a_defect_and_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_kinds(manifest: dict[str, Any]) -> None:
        kinds = ("near-threshold", "good", "pseudo-abnormal", "defective")
        for frame, kind in zip(manifest["golden"], kinds, strict=True):
            frame["kind"] = kind

    edit_manifest(make_bundle(tmp_path / "the models"), as_kinds)
    monkeypatch.chdir(tmp_path)

    with process("--models", "the models", PYTHONPATH=str(REPOSITORY)) as service:
        command = shlex.split(service.lines[-1].removeprefix("try"))
        answer = subprocess.run(command, capture_output=True, check=True).stdout

    assert "@the models/tile/1/golden/255.png" in command
    assert json.loads(answer)["verdict"] == "NG"


def test_the_log_says_why_an_engine_that_comes_first_is_not_used(tmp_path: Path) -> None:
    def a_gpu_first(manifest: dict[str, Any]) -> None:
        manifest["engines"].insert(0, manifest["engines"][0] | {"id": "tensorrt-fp16-sm10"})

    edit_manifest(make_bundle(tmp_path), a_gpu_first)

    with process("--models", tmp_path) as service:
        said = [line["message"] for line in service.log()]

    assert "tile version 1 is READY on onnx-f32" in said
    assert any(line.startswith("tile version 1 does not use tensorrt-fp16-sm10: ") for line in said)


def test_the_environment_does_what_the_options_do(models: Path) -> None:

    with process(DRD_MODELS=str(models), DRD_MAX_IMAGE_BYTES="100", DRD_TLS_CERT="x.pem") as service:
        response = httpx.post(f"{service.url}/v1/inspect?product=tile", content=bytes(101))
        said = [line["message"] for line in service.log()]

    assert response.status_code == 413
    assert "not settings of drd-serve, so ignored: DRD_TLS_CERT" in said


def test_it_works_with_the_largest_numbers_that_are_accepted(models: Path) -> None:
    largest = {
        f"DRD_{name.upper()}": str(bound.le)
        for name, field in Settings.model_fields.items()
        for bound in field.metadata
        if isinstance(bound, Le)
    }
    feasible = {"DRD_WORKERS": "2", "DRD_LAME_DUCK_SECONDS": "0"}

    with process("--models", models, **largest | feasible) as service:
        over_http = httpx.post(f"{service.url}/v1/inspect?product=tile&include=overlay", content=plain(200))
        with Client(f"grpc://{service.target}") as client:
            over_grpc = client.inspect(Frame(plain(200), "tile"))
        service.popen.terminate()
        ended = service.popen.wait(60)

    assert over_http.json()["verdict"] == over_grpc.verdict == "NG"
    assert ended == 0


@pytest.mark.parametrize(("hard", "warns"), [(4000, False), (900, True)])
def test_it_raises_the_limit_of_open_files(tmp_path: Path, hard: int, warns: bool) -> None:
    line = f'ulimit -Sn 256; ulimit -Hn {hard}; exec "$@" >/dev/null'
    with started(tmp_path, line, DRD_WORKERS="2") as (service, _, log):
        limits = Path(f"/proc/{service.pid}/limits").read_text(encoding="ascii").splitlines()
        said = log.read_text(encoding="utf-8")

    (limit,) = (line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert limit == [str(hard), str(hard)]
    assert said.count(f"only {hard} open files are allowed") == warns


@pytest.mark.parametrize(
    "streams", [">/dev/full", ">&-", "<&- >&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"]
)
def test_it_serves_where_it_cannot_print(tmp_path: Path, streams: str) -> None:
    with started(tmp_path, f'exec "$@" {streams}') as (service, client, log):
        response = client.post("/v1/inspect?product=tile", content=plain(200))
        service.terminate()
        ended = service.wait(60)

    assert response.json()["verdict"] == "NG"
    assert ended == 0
    assert "Error" not in log.read_text(encoding="utf-8")


def test_it_serves_where_the_terminal_lacks_the_characters_of_a_path(tmp_path: Path) -> None:
    line = f'exec "$@" >{tmp_path}/printed'
    with started(tmp_path / "Prüfstück-模型", line, PYTHONIOENCODING="latin-1") as (service, *_):
        service.terminate()
        assert service.wait(60) == 0
    assert "Prüfstück-??/http" in (tmp_path / "printed").read_text(encoding="latin-1")


def test_it_serves_and_ends_while_nobody_reads_its_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    room = fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    with started(tmp_path, f'exec "$@" 2>{tmp_path}/pipe') as (service, client, _):
        url = "/v1/inspect?product=tile&include="
        answers = [client.post(url, content=plain(200)) for _ in range(room // 100)]
        live = client.get("/health/live")
        service.terminate()
        ended = service.wait(60)
    logged = os.read(pipe, 2 * room)
    os.close(pipe)

    assert {answer.json()["verdict"] for answer in answers} == {"NG"}
    assert (live.status_code, ended) == (200, 0)
    assert 0 < logged.count(b"\n") < len(answers)


def test_it_serves_and_ends_while_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    os.write(pipe, bytes(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)))
    with started(tmp_path, f'exec "$@" >{tmp_path}/pipe') as (service, client, _):
        response = client.post("/v1/inspect?product=tile&include=", content=plain(200))
        service.terminate()
        ended = service.wait(60)
    os.close(pipe)

    assert (response.json()["verdict"], ended) == ("NG", 0)


@contextmanager
def started(
    models: Path, shell: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, Path]]:
    """The service started by a line of shell, a client, and the log. It listens on sockets in `models`, as
    what it prints may be lost."""
    make_bundle(models)
    command = [sys.executable, "-m", "service.cli", "--models", str(models)]
    command += ["--http", f"unix:{models}/http", "--grpc", f"unix:{models}/grpc"]
    environment = without_settings() | environment
    with (
        (models / "log").open("wb") as log,
        httpx.Client(base_url="http://it", transport=httpx.HTTPTransport(uds=f"{models}/http")) as client,
        subprocess.Popen(["sh", "-c", shell, "sh", *command], stderr=log, env=environment) as popen,
    ):

        def listens() -> bool:
            assert popen.poll() is None
            with socket.socket(socket.AF_UNIX) as caller:  # httpx leaves its socket open where this fails
                return caller.connect_ex(f"{models}/http") == 0

        try:
            wait_until(listens)
            wait_until(lambda: client.get("/health/ready").is_success)
            yield popen, client, models / "log"
        finally:
            popen.kill()


def test_a_door_that_fails_to_open_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def startup(self: uvicorn.Server, sockets: object) -> None:
        raise OSError("no more memory for sockets")

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    with pytest.raises(OSError, match="no more memory"), serving(tmp_path):
        pass


def test_a_door_that_finds_its_address_taken_closes_those_that_are_open(tmp_path: Path) -> None:
    door = tmp_path / "door"

    async def start(taken: int) -> None:
        settings = Settings(
            models=tmp_path, http=(Address(path=str(door)),), grpc=(Address("127.0.0.1", taken),)
        )
        with pytest.raises(CannotListen):
            async with open_service(settings):
                pass
        with socket.socket(socket.AF_UNIX) as caller:
            assert door.exists()
            assert caller.connect_ex(str(door)) == errno.ECONNREFUSED

    with socket.create_server(("127.0.0.1", 0)) as other:
        asyncio.run(start(other.getsockname()[1]))


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


IPV6 = pytest.param("[::1]:0", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here"))
DOORS = pytest.mark.parametrize("door", ["127.0.0.1:0", IPV6, "unix:{folder}/door"])


def call(door: socket.socket) -> socket.socket:
    """A connection to it."""
    caller = socket.socket(door.family)
    caller.settimeout(30)
    caller.connect(door.getsockname())
    return caller


@DOORS
def test_an_address_can_be_listened_on_again_at_once(tmp_path: Path, door: str) -> None:
    """Also when the last run closed a connection, or left its socket's file."""
    with listen(Address.parse(door.format(folder=tmp_path))) as first:
        address = name_of(first)
        with call(first):
            first.accept()[0].close()
    with listen(address) as again, call(again):
        assert name_of(again) == address


@DOORS
def test_callers_that_come_all_at_once_are_let_in(tmp_path: Path, door: str) -> None:
    with listen(Address.parse(door.format(folder=tmp_path))) as listening, ExitStack() as callers:
        for _ in range(100):
            callers.enter_context(call(listening))


def test_a_file_that_is_no_socket_is_not_replaced_by_one(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("somebody's")
    for path in (file, tmp_path):
        with pytest.raises(CannotListen, match="what lies there is no socket"):
            listen(Address(path=str(path)))
    assert file.read_text() == "somebody's"


def test_it_says_which_version_it_is(tmp_path: Path) -> None:
    with process("--models", tmp_path) as service:
        shown = httpx.get(f"{service.url}/metrics").text

    assert drd_serve("--version").stdout.strip() == program_version()
    assert f'drd_build_info{{version="{program_version()}"}} 1.0' in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "nowhere"], "there is no models folder nowhere"),
        (["--models", "n" * 300], "there is no models folder nnn"),
        (["--models", ".", "--admin", "no..host:1"], "there can be no host of this name"),
        (
            ["--models", ".", "--http", "127.0.0.1:{taken}", "--grpc", ANYWHERE],
            "another program listens there",
        ),
        (
            ["--models", ".", "--http", ANYWHERE, "--grpc", "127.0.0.1:{taken}"],
            "another program listens there",
        ),
        (["--models", ".", "--admin", "127.0.0.1:{taken}"], "another program listens there"),
        (["--models", ".", "--http", "unix:/no/such/folder/socket"], "No such file or directory"),
        (["--models", ".", "--http", "unix:{datagrams}"], "another program listens there"),
        (["--models", ".", "--http", ANYWHERE, "--grpc", "unix:a%41"], "gRPC takes it as a URI"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    datagrams = tmp_path / "log"
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as logger,
    ):
        logger.bind(str(datagrams))
        taken = other.getsockname()[1]
        ended = drd_serve(*(argument.format(taken=taken, datagrams=datagrams) for argument in arguments))
        assert datagrams.exists()

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("drd-serve: ")
    assert said in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--models", ".", "--http", "8080"],
        ["--models", ".", "--speed", "high"],
        ["--models", ".", "--http", "127.0.0.1:8080", "--grpc", "127.0.0.1:8080"],
    ],
)
def test_misuse_ends_with_two_and_a_hint(arguments: list[str]) -> None:
    ended = drd_serve(*arguments)

    assert ended.returncode == 2
    assert "usage: drd-serve" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_models_folder_is_waited_on(tmp_path: Path) -> None:
    """One product's folder looks the same."""
    (tmp_path / "1/golden").mkdir(parents=True)
    with process("--models", tmp_path, DRD_WATCH_SECONDS="0.05") as service:
        reason = "no product can be inspected: the models folder holds no PRODUCT/VERSION"
        assert service.lines[-1] == f"not ready: {reason}"
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        unready = httpx.get(f"{service.url}/health/ready")
        assert (unready.status_code, unready.json()["status"]) == (503, 503)
        make_bundle(tmp_path)
        wait_until(lambda: httpx.get(f"{service.url}/health/ready").status_code == 200)


def test_a_bundle_with_one_byte_changed_is_refused(tmp_path: Path) -> None:
    model = make_bundle(tmp_path) / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)

    with process("--models", tmp_path) as service:
        assert service.lines[-1].startswith("not ready: ")
        assert "model.onnx is damaged" in service.lines[-1]
        response = httpx.post(f"{service.url}/v1/inspect?product=tile", content=plain(1))
        assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")


def test_it_runs_where_training_cannot_be_imported(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    block = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'torchvision', 'timm', 'onnx', 'safetensors'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import torch\n"
    )
    assert (
        "ImportError: torch"
        in subprocess.run([sys.executable, "-c", block], capture_output=True, text=True).stderr
    )
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(block.removesuffix("import torch\n"))

    with process("--models", tmp_path, PYTHONPATH=f"{tmp_path}/without:{Path.cwd()}") as service:
        response = httpx.post(f"{service.url}/v1/inspect?product=tile", content=plain(200))

    assert response.json()["verdict"] == "NG"
