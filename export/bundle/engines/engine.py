"""What every engine offers, and which one an id names."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.onnx_runtime import OnnxRuntimeEngine
from export.bundle.manifest import BundleError, EngineEntry
from training.geometry import Geometry


class Engine(Protocol):
    """Runs the graph. Not thread-safe: one caller at a time."""

    def run(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`frames` [N, H, W, 3], N one of the entry's batch sizes → heatmap [N, H, W] and raw score [N]."""

    def close(self) -> None:
        """Frees what the runtime holds; the engine can't be used afterwards."""


def open_engine(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
    """Opens `entry` of the bundle at `root`, whose digests have been checked.

    Raises BundleError, with the reason, when this machine can't run it.
    """
    if entry.id == "onnx-f32":
        return OnnxRuntimeEngine(root / entry.file, geometry, ["CPUExecutionProvider"])
    raise BundleError(f"this program has no engine {entry.id}")
