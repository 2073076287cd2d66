"""The examples in deploy/examples, started from the command line."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


def test_curl_without_a_service(free_port: int, pictures: dict[str, Path]) -> None:
    url = f"http://127.0.0.1:{free_port}"

    ended = run(EXAMPLES / "inspect.sh", "tile", pictures["dark"], DRD_URL=url)

    assert ended.stdout.startswith("NOT INSPECTED\t")
    assert ended.returncode == 1


WHOLE = b'{"frame_id":"","verdict":"OK"}'
HEAD = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


@contextmanager
def answering(answer: bytes, after: float) -> Iterator[str]:
    """The URL of a service that answers one request with this, `after` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.settimeout(60)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as request:
                length = next(int(line.split()[1]) for line in request if b"content-length:" in line.lower())
                while request.readline() != b"\r\n":
                    pass
                request.read(length)
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


def test_python(address: str, pictures: dict[str, Path]) -> None:
    example = EXAMPLES / "inspect_parts.py"

    ended = run(sys.executable, example, address, "tile", *pictures.values(), DRD_DEADLINE_MS="30000")

    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert said["dark"].startswith("pass, 0.12 in ")
    assert said["bright"].startswith("eject, NG ")
    assert said["broken"].startswith("eject, not inspected: ")
    assert ended.returncode == 0
