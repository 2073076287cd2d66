"""What the documents promise for options that are not given, and that `--help` comes at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from export import cli as export_cli
from service.settings import Address, Settings
from training import cli as training_cli

TRAIN = {"recipe": "fast", "seed": 0, "device": "auto"}
EXPORT = {"max_false_reject": 0.01, "min_area": 0, "calibration": None, "roi": None, "version": None}
SERVE = {
    "http": (Address("127.0.0.1", 8080),),
    "grpc": (Address("127.0.0.1", 8081),),
    "admin": None,
    "engine": "auto",
    "takt_ms": 200,
    "default_deadline_ms": 1000,
    "max_image_bytes": 64 << 20,
    "max_image_pixels": 40_000_000,
    "max_connection_age_seconds": 1800,
}


def test_drd_train(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[object]()
    monkeypatch.setattr("training.run.train", given.append)

    assert training_cli.main(["images", "--product", "tile", "--out", "nowhere"]) == 0

    (options,) = given
    assert {name: getattr(options, name) for name in TRAIN} == TRAIN


def test_drd_export(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[object]()
    monkeypatch.setattr("export.build.build", given.append)

    assert export_cli.main(["checkpoint", "--to", "nowhere"]) == 0

    (options,) = given
    assert {name: getattr(options, name) for name in EXPORT} == EXPORT


def test_drd_serve() -> None:
    settings = Settings(models=Path())
    assert {name: getattr(settings, name) for name in SERVE} == SERVE


@pytest.mark.parametrize("program", ["training.cli", "export.cli", "export.evaluate_cli", "service.cli"])
def test_help_waits_for_no_torch(program: str) -> None:
    ask = f"import sys; sys.modules['torch'] = None; from {program} import main; main(['--help'])"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage:")
