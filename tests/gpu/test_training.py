"""Training on the GPU that is here: the checkpoint says on a CPU what training measured."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from export.evaluate_cli import main as evaluate
from tests.e2e.serving import wait_until
from tests.export.checkpoints import make_dataset
from training.cli import main

BACKBONE = "test_resnet"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    weights = tmp_path / "teacher.safetensors"
    save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), weights)
    data = make_dataset(tmp_path / "plate")
    size, epochs = ["--size", "64", "64"], ["--epochs", "3"]
    teacher = ["--backbone", BACKBONE, "--weights", str(weights)]
    return [str(data), "--product", "plate", "--device", "cuda", "--recipe", "fast", *teacher, *size, *epochs]


@pytest.mark.usefixtures("torch_device")
def test_a_cpu_finds_the_same_figures(options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    assert main([*options, "--out", str(out)]) == 0
    trained = json.loads((out / "metrics.json").read_bytes())["test"]
    assert trained["image_auroc"] > 0.9

    assert evaluate([str(out), options[0], "--json", str(tmp_path / "cpu.json")]) == 0

    again = json.loads((tmp_path / "cpu.json").read_bytes())
    assert again["image_auroc"] == pytest.approx(trained["image_auroc"], abs=0.03)  # one pair of 36
    for figure in ("pixel_auroc", "aupro"):
        assert again[figure] == pytest.approx(trained[figure], abs=1e-4)


@pytest.mark.usefixtures("torch_device")
def test_a_killed_run_goes_on(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "killed"
    arguments = [*options, "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "training.cli", *arguments], stdout=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: (out / "resume.safetensors").exists() or process.poll() is not None)
        process.kill()
    assert process.returncode == -signal.SIGKILL

    assert main(arguments) == 0

    assert "going on after epoch" in capsys.readouterr().out
