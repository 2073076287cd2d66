"""What needs a GPU: skipped, with the reason, where there is none."""

from pathlib import Path

import pytest
import torch

from export.bundle import BundleError
from export.bundle.engines.nvidia import compute_capability
from tests.export.checkpoints import make_checkpoint, make_dataset


@pytest.fixture(scope="session")
def capability() -> str:
    """The GPU's compute capability, such as "8.9"."""
    try:
        return compute_capability()
    except BundleError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def checkpoint(capability: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_dataset(tmp_path_factory.mktemp("data") / "plate")
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "plate", data)


@pytest.fixture(scope="session")
def torch_device(capability: str) -> None:
    """PyTorch can use the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch finds no CUDA device")
