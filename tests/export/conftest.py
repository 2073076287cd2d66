"""One tiny checkpoint, and the bundle that drd-export makes from it, for all tests of export."""

from pathlib import Path

import pytest

from export.cli import main
from tests.export.checkpoints import make_checkpoint, make_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "plate")


@pytest.fixture(scope="session")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "plate", data)


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    assert main([str(checkpoint), "--to", str(models), "--max-false-reject", "0.1"]) == 0
    return models / "plate" / "1"
