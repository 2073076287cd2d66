"""From an engine id to the engine."""

from pathlib import Path

from export.bundle.engines.engine import Engine
from export.bundle.engines.onnx_runtime import CPU, CUDA, OnnxRuntimeEngine
from export.bundle.engines.openvino import OpenVinoEngine
from export.bundle.engines.specs import UnknownEngineError, spec_of
from export.bundle.engines.tensorrt import open_plan
from export.bundle.manifest import BundleError, EngineEntry
from training.geometry import Geometry
from training.messages import one_line, out_of_memory


def open_engine(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
    """Opens `entry` of the bundle at `root`, whose digests have been checked.

    Raises BundleError, with the reason, if this machine can't run it; as it comes, what says that there is
    too little memory, which may pass.
    """
    try:
        return _opened(entry, root, geometry)
    except Exception as error:  # libraries of another version, or not all there, raise anything
        if isinstance(error, BundleError) or out_of_memory(error):
            raise
        raise BundleError(f"can't be opened: {type(error).__name__}: {one_line(error)}") from error


def _opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
    try:
        spec = spec_of(entry.id)
    except UnknownEngineError as error:
        raise BundleError(f"this program has no engine {entry.id}") from error
    path = root / entry.file
    if spec.is_plan:
        return open_plan(entry, root, geometry)
    if spec.runtime == "openvino":
        # The int8 engine needs a CPU with bfloat16 instructions, too: what is not quantised, above all the
        # teacher, runs in bfloat16.
        return OpenVinoEngine(
            path, geometry, "f32" if spec.precision == "f32" else "bf16", entry.float32_convolutions
        )
    if spec.gpu:
        # Since 1.20, ONNX Runtime plans every convolution anew when the batch size changes. TF32 stays
        # allowed: `use_tf32=0` would keep float16 convolutions off the tensor cores, too.
        return OnnxRuntimeEngine(path, geometry, CUDA, fixed_batch=True)
    return OnnxRuntimeEngine(path, geometry, CPU)
