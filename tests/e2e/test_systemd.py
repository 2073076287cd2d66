"""systemd knows whether the service has started, lives and ends."""

import errno
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.systemd import Systemd
from tests.bundles import make_bundle
from tests.e2e.serving import process, serving
from tests.service.engines import Gate
from tests.service.images import plain

HANGS = "STATUS=the engine hangs"


@pytest.fixture(params=["path", "abstract"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """What a supervisor listens on; its `getsockname` is the address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        path = str(tmp_path / "notify")
        told.bind(path if request.param == "path" else f"\0{path}")
        told.settimeout(60)
        yield told


def address(told: socket.socket) -> str:
    name = told.getsockname()
    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


def until(told: socket.socket, wanted: str) -> list[str]:
    """The messages until one begins with `wanted`, which is the last."""
    messages = list[str]()
    while not (messages and messages[-1].startswith(wanted)):
        messages.append(told.recv(4096).decode())
    return messages


def test_a_start_a_status_and_an_end(models: Path, told: socket.socket) -> None:
    with process("--models", models, NOTIFY_SOCKET=address(told), DRD_LAME_DUCK_SECONDS="0") as running:
        until(told, "READY=1")
        assert until(told, "STATUS=ready")[-1] == "STATUS=ready\nWATCHDOG=1"
        running.popen.send_signal(signal.SIGTERM)
        until(told, "STOPPING=1")
        assert running.popen.wait(timeout=60) == 0


def test_there_is_no_sign_of_life_while_only_a_restart_helps(tmp_path: Path, told: socket.socket) -> None:
    make_bundle(tmp_path / "models")
    gate = Gate()
    with (
        serving(
            tmp_path / "models", gate.start, notify_socket=address(told), engine_hang_seconds=0.1
        ) as running,
        ThreadPoolExecutor(1) as caller,
    ):
        until(told, "STATUS=ready\nWATCHDOG=1")
        gate.shut()
        frame = caller.submit(httpx.post, f"{running.url}/v1/inspect?product=tile", content=plain(200))
        gate.wait_for_batch()
        assert "WATCHDOG" not in until(told, HANGS)[-1]
        gate.open()
        assert frame.result().json()["verdict"] == "NG"
        assert until(told, "STATUS=ready\n")[-1].endswith("WATCHDOG=1")


def test_a_supervisor_that_has_gone_costs_nothing(models: Path, tmp_path: Path) -> None:
    with serving(models, notify_socket=str(tmp_path / "gone")) as running:
        assert httpx.get(f"{running.url}/health/ready").status_code == 200


def test_too_many_open_files_end_no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_more)
    Systemd("/run/systemd/notify").tell("STOPPING=1")
