"""A disk that is full: nothing half-written is taken for whole, and the command says so in one line."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from export.bundle import Bundle
from tests.export.checkpoints import make_checkpoint, make_dataset
from training.checkpoint import load_checkpoint

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]
_LIMITED = (
    "import importlib, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
    "sys.argv = sys.argv[2:]\n"
    "sys.exit(importlib.import_module(sys.argv[0]).main())\n"
)


def run(
    module: str, *arguments: str | Path, room: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Runs a command; no file it writes can have more than `room` bytes, as if the disk were full then."""
    return subprocess.run(
        [sys.executable, "-c", _LIMITED, str(room), module, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=240,
        check=False,
    )


def tells_it(failed: subprocess.CompletedProcess[str], command: str) -> bool:
    """Whether it failed, and its last line says why."""
    last = failed.stderr.strip().splitlines()[-1]
    return failed.returncode == 1 and last.startswith(f"{command}: ") and "too large" in last


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "plate")


@pytest.mark.parametrize("room", [1000, 100_000])
def test_an_export_without_room_leaves_nothing_to_serve(data: Path, tmp_path: Path, room: int) -> None:
    checkpoint, models = make_checkpoint(tmp_path / "checkpoint", data), tmp_path / "models"
    arguments = (checkpoint, "--to", models, "--max-false-reject", "0.1", "--engines", "onnx-f32")

    failed = run("export.cli", *arguments, room=room)

    assert tells_it(failed, "drd-export")
    assert not list(models.glob("plate/*"))
    assert run("export.cli", *arguments).returncode == 0
    assert Bundle.open(models / "plate" / "1").manifest.version == 1


def test_a_training_without_room_leaves_no_checkpoint(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights, out = tmp_path / "teacher.safetensors", tmp_path / "checkpoint"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), weights)
    arguments: list[str | Path] = [
        data, "--product", "plate", "--out", out, "--recipe", "quick", "--backbone", "test_resnet",
        "--weights", weights, "--size", "64", "64", "--device", "cpu", "--epochs", "1",
    ]  # fmt: skip

    failed = run("training.cli", *arguments, room=200_000)

    assert tells_it(failed, "drd-train")
    assert str(out / "resume.safetensors") in failed.stderr
    assert not (out / "checkpoint.json").exists()
    assert run("training.cli", *arguments).returncode == 0
    assert load_checkpoint(out).product == "plate"


def test_a_token_without_room_leaves_the_others(tmp_path: Path) -> None:
    """Half a line would be refused, with all others, at the service's next start."""
    file = tmp_path / "tokens"
    assert run("service.cli", "token", "add", "line-1", "--file", file).returncode == 0
    before = file.read_bytes()

    failed = run("service.cli", "token", "add", "line-2", "--file", file, room=len(before) + 20)

    assert tells_it(failed, "drd-serve token")
    assert not failed.stdout
    assert file.read_bytes() == before
