"""The examples in deploy/examples, started from the command line."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.client import Frame
from tests.client.fakes import answering
from tests.e2e.serving import Running, wait_until
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
            DRD_URL=url, DRD_TOKEN="its-token", DRD_DEADLINE_MS="30000",
            http_proxy="http://127.0.0.1:1", no_proxy="", NO_PROXY="",
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
def test_the_gateway_says_what_it_cannot_use(option: str, wrong: str, status: int) -> None:
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
    assert said["bright"].endswith(", over the threshold")
    assert said["broken"].startswith("eject, not inspected: ")
    assert ended.returncode == 0


def test_python_passes_no_part_late(
    address: str, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part's answer comes in time, but while the gate is busy with the first."""
    example = runpy.run_path(str(EXAMPLES / "inspect_parts.py"))
    main, said, taken = example["main"], list[str](), list[Frame]()
    clock = SimpleNamespace(monotonic=time.monotonic)

    def camera(*given: Any) -> Iterator[Frame]:
        for frame in example["camera"](*given):
            taken.append(frame)
            yield frame

    def gate(line: str) -> None:
        said.append(line)
        wait_until(lambda: len(taken) == 2)
        clock.monotonic = lambda: time.monotonic() + 60

    for name, value in {"TAKT": 30, "camera": camera, "print": gate, "time": clock}.items():
        monkeypatch.setitem(main.__globals__, name, value)
    pictures["bright"].write_bytes(plain(30))
    main(address, "tile", str(pictures["dark"]), str(pictures["bright"]))

    assert "pass" in said[0]
    assert "eject, the answer waited" in said[1]
