"""The client in an environment without the server's dependencies."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_LISTS_ROOMS = """
import sys, service.client, service.client.camera.cli
own = [name for name in sys.modules if name.partition(".")[0] in ("service", "export", "training")]
print(*sorted(name for name in own if not name.startswith("service.client")))
"""


def test_it_imports_only_messages_of_this_project() -> None:
    loaded = subprocess.run([sys.executable, "-c", _LISTS_ROOMS], capture_output=True, text=True, check=True)

    assert set(loaded.stdout.split()) == {
        "service",
        "service.rpc",
        "service.rpc.pb",
        "service.rpc.pb.inspection_pb2",
        "service.rpc.pb.inspection_pb2_grpc",
    }


@pytest.mark.system
def test_an_environment_of_its_own_is_enough(tmp_path: Path) -> None:
    """Its types are installed too: a program that misuses it does not pass mypy."""
    pins = tmp_path / "pins.txt"
    wanted = ("grpcio", "googleapis-common-protos", "protobuf", "httpx", "anyio", "mypy", "types-grpcio")
    lines = (REPOSITORY / "requirements/dev.txt").read_text().splitlines()
    pins.write_text("\n".join(line.partition(" ")[0] for line in lines if line.partition("==")[0] in wanted))
    program = tmp_path / "program.py"
    program.write_text(
        "from service.client import Client, Frame\n"
        "answer = Client('http://127.0.0.1:8080').inspect(Frame(b'', 'tile'))\n"
        "reveal_type(answer.score)\n"
        "answer.soul\n"
    )
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [str(tmp_path / "venv/bin/pip"), "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(pins)], check=True)
    subprocess.run([*pip, "--no-deps", str(REPOSITORY)], check=True)

    used = subprocess.run(
        [tmp_path / "venv/bin/drd-camera", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    typed = subprocess.run(
        [tmp_path / "venv/bin/mypy", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert used.returncode == 0, used.stderr
    assert "float" in typed.stdout
    assert '"Answer" has no attribute "soul"' in typed.stdout
    assert "Found 1 error" in typed.stdout
