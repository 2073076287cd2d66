"""The examples of deploy/examples, as a person would start them."""

import os
import subprocess
import sys
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


def test_python(address: str, pictures: dict[str, Path]) -> None:
    example = EXAMPLES / "inspect_parts.py"

    ended = run(sys.executable, example, address, "tile", *pictures.values(), DRD_DEADLINE_MS="30000")

    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert said["dark"].startswith("pass, 0.12 in ")
    assert said["bright"].startswith("eject, NG ")
    assert said["broken"].startswith("eject, not inspected: ")
    assert ended.returncode == 0
