"""Which engine an id names."""

from pathlib import Path

from export.bundle.engines.engine import Engine
from export.bundle.engines.onnx_runtime import OnnxRuntimeEngine
from export.bundle.manifest import BundleError, EngineEntry
from training.geometry import Geometry


def open_engine(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
    """Opens `entry` of the bundle at `root`, whose digests have been checked.

    Raises BundleError, with the reason, when this machine can't run it.
    """
    if entry.id == "onnx-f32":
        return OnnxRuntimeEngine(root / entry.file, geometry, ["CPUExecutionProvider"])
    raise BundleError(f"this program has no engine {entry.id}")
