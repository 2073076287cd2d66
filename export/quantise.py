"""The graph with fusion and student in int8, for OpenVINO.

Only convolutions between the teacher's features and the student's are quantised. The teacher is not, because
its features are the reference for the student's. The convolution that reads the teacher's finest level is not
either: that level has the widest range of values, and quantising it saves 1 % of the time but doubles the
deviation.

On defective parts, some students have activations a hundred times larger than on good parts, too far outside
an int8 range. The comparison with the checkpoint rejects these engines.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.bundle.manifest import BundleError
from export.bundle.tensors import FRAMES, STUDENT, TEACHER
from export.nodes import ancestors
from training.messages import one_line

_CONVOLUTIONS = ["Conv", "ConvTranspose"]
_BATCH = 4
_HOW = {
    "ActivationSymmetric": False,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": _CONVOLUTIONS,  # sums and ReLU are fused into them
}


def quantise(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> onnx.ModelProto:
    """A copy of `model`, which `export.trace` made, with int8 convolutions between the teacher's and the
    student's features: weights scaled per channel, activations by their range on `frames` uint8
    `[F, H, W, 3]`.

    Raises BundleError if that can't be done.
    """
    chosen = list(_to_quantise(model.graph.node))
    if not chosen:  # the library would quantise all nodes
        raise BundleError("the graph has no convolution to quantise")
    try:
        return _quantised(model, frames, chosen)
    except Exception as error:  # exceptions of this library have no common base class
        raise BundleError(f"the graph can't be quantised: {one_line(error)}") from error


def _quantised(model: onnx.ModelProto, frames: NDArray[np.uint8], chosen: list[str]) -> onnx.ModelProto:
    with TemporaryDirectory(prefix="drd-quantise-") as folder:
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, given)
        quant_pre_process(given, given, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            given,
            made,
            _Batches(frames),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_quantize=chosen,
            op_types_to_quantize=_CONVOLUTIONS,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=_HOW,
        )
        return onnx.load(made)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # untyped library
    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._batches = iter([frames[start : start + _BATCH] for start in range(0, len(frames), _BATCH)])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {FRAMES: batch}


def _to_quantise(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the convolutions from TEACHER to STUDENT that do not read the finest level; `nodes` are in
    topological order."""
    finest, *_ = TEACHER
    nodes = list(nodes)
    network = ancestors(nodes, set(STUDENT)) - ancestors(nodes, set(TEACHER))
    for node in nodes:
        if node.name in network and node.op_type in _CONVOLUTIONS and finest not in node.input:
            yield node.name
