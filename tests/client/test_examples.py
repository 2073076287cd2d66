"""The examples in deploy/examples, started from the command line."""

import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.serving import Running
from tests.service.images import plain

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    contents = {"dark": plain(30), "bright": plain(200), "broken": b"no picture"}
    paths = {name: tmp_path / f"{name}.png" for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("names", "verdicts", "status"),
    [
        (["dark", "dark"], ["OK", "OK"], 0),
        (["bright", "dark"], ["NG", "OK"], 3),
        (["bright", "broken", "nowhere", "dark"], ["NG", "NOT INSPECTED", "NOT INSPECTED", "OK"], 1),
    ],
)
def test_curl(
    running: Running, pictures: dict[str, Path], names: list[str], verdicts: list[str], status: int
) -> None:
    paths = [pictures.get(name, Path("/nowhere.png")) for name in names]

    ended = run(EXAMPLES / "inspect.sh", "tile", *paths, DRD_URL=running.url, DRD_DEADLINE_MS="30000")

    lines = [line.split("\t") for line in ended.stdout.splitlines()]
    assert lines == [[verdict, str(path)] for verdict, path in zip(verdicts, paths, strict=True)]
    assert ended.returncode == status


def test_curl_prints_one_line_for_a_picture_whatever_its_name(running: Running, tmp_path: Path) -> None:
    picture = tmp_path / "a\nOK\tb.png"
    picture.write_bytes(plain(200))

    ended = run(EXAMPLES / "inspect.sh", "tile", picture, DRD_URL=running.url, DRD_DEADLINE_MS="30000")

    assert ended.stdout == f"NG\t{tmp_path}/a?OK?b.png\n"


def test_curl_shows_its_token_to_the_service_only(pictures: dict[str, Path]) -> None:
    """Neither to a proxy for office use nor to who lists processes."""
    heads, shown = list[bytes](), list[bytes]()

    def note(head: bytes) -> None:
        heads.append(head)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                shown.append((process / "cmdline").read_bytes())

    with answering(HEAD % (b"200 OK", len(WHOLE)) + WHOLE, 0, note) as url:
        ended = run(
            EXAMPLES / "inspect.sh", "tile", pictures["dark"],
            DRD_URL=url, DRD_TOKEN="its-token", DRD_DEADLINE_MS="30000", http_proxy="http://127.0.0.1:1",
        )  # fmt: skip

    assert ended.stdout == f"OK\t{pictures['dark']}\n"
    assert b"authorization: bearer its-token\r\n" in heads[0].lower()
    assert any(line.startswith(b"curl") for line in shown)
    assert not any(b"its-token" in line for line in shown)


def test_curl_without_a_service(free_port: int, pictures: dict[str, Path]) -> None:
    url = f"http://127.0.0.1:{free_port}"

    ended = run(EXAMPLES / "inspect.sh", "tile", pictures["dark"], DRD_URL=url)

    assert ended.stdout.startswith("NOT INSPECTED\t")
    assert ended.returncode == 1


WHOLE = b'{"frame_id":"","verdict":"OK"}'
HEAD = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


@contextmanager
def answering(answer: bytes, after: float, note: Callable[[bytes], None] = lambda _: None) -> Iterator[str]:
    """The URL of a service that notes the head of one request and answers it with this, `after` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.settimeout(60)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as request:
                head = b"".join(iter(request.readline, b"\r\n"))
                length = next(
                    int(line.split()[1]) for line in head.lower().splitlines() if b"length:" in line
                )
                request.read(length)
                note(head)
                threading.Event().wait(after)
                connection.sendall(answer)

        served = pool.submit(serve)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        served.result()


@pytest.mark.parametrize(
    ("answer", "after", "deadline", "verdict", "status"),
    [
        (HEAD % (b"200 OK", len(WHOLE)) + WHOLE, 0, 30_000, "OK", 0),
        (HEAD % (b"200 OK", len(WHOLE)) + WHOLE, 0.5, 200, "NOT INSPECTED", 1),
        (HEAD % (b"200 OK", len(WHOLE) + 9) + WHOLE, 0, 30_000, "NOT INSPECTED", 1),
        (HEAD % (b"203 OK", len(WHOLE)) + WHOLE, 0, 30_000, "NOT INSPECTED", 1),
    ],
    ids=["in-time", "late", "broken-off", "another-status"],
)
def test_curl_accepts_only_a_complete_answer_in_time(
    pictures: dict[str, Path], answer: bytes, after: float, deadline: int, verdict: str, status: int
) -> None:
    with answering(answer, after) as url:
        ended = run(
            EXAMPLES / "inspect.sh", "tile", pictures["dark"], DRD_URL=url, DRD_DEADLINE_MS=str(deadline)
        )

    assert (ended.stdout, ended.returncode) == (f"{verdict}\t{pictures['dark']}\n", status)


@pytest.mark.parametrize(
    ("option", "wrong", "status"),
    [("--broker", ":1883", 2), ("--broker", "a..b:1883", 2), ("--broker-ca", "missing.pem", 1)],
)
def test_the_gateway_says_what_it_can_not_use(option: str, wrong: str, status: int) -> None:
    gateway: list[str | Path] = [sys.executable, EXAMPLES / "mqtt_gateway.py", "--product", "tile"]

    ended = run(*gateway, "--pictures", ".", option, wrong)

    assert ended.returncode == status
    assert wrong in ended.stderr.splitlines()[-1]


def test_python(address: str, pictures: dict[str, Path]) -> None:
    example = EXAMPLES / "inspect_parts.py"

    ended = run(sys.executable, example, address, "tile", *pictures.values(), DRD_DEADLINE_MS="30000")

    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert said["dark"].startswith("pass, 0.12 in ")
    assert said["bright"].startswith("eject, NG ")
    assert said["broken"].startswith("eject, not inspected: ")
    assert ended.returncode == 0


def test_python_passes_no_part_late(
    address: str, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part's answer comes in time, but while the gate is busy with the first."""
    example = runpy.run_path(str(EXAMPLES / "inspect_parts.py"))
    main, said = example["main"], list[str]()

    def gate(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            threading.Event().wait(2.5)

    monkeypatch.setitem(main.__globals__, "TAKT", 2.0)
    monkeypatch.setitem(main.__globals__, "print", gate)
    pictures["bright"].write_bytes(plain(30))
    main(address, "tile", str(pictures["dark"]), str(pictures["bright"]))

    assert "pass" in said[0]
    assert "eject, the answer waited" in said[1]
