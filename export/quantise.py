"""The graph with fusion and student in eight bits: what OpenVINO runs where it pays.

Only convolutions between the joints are quantised. The teacher is not, since its features are also what the
student is measured by; nor is the convolution that reads its finest level, whose values are spread widest: it
would save a hundredth of the time, and double the deviation.

Some students answer to an unusual part with values a hundred times those of good parts. Eight bits can't hold
both, which the certificate finds out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.bundle.joints import FRAMES, STUDENT, TEACHER
from export.nodes import ancestors

_CONVOLUTIONS = ["Conv", "ConvTranspose"]
_BATCH = 4
_HOW = {
    "ActivationSymmetric": False,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": _CONVOLUTIONS,  # sums and ReLU belong to the convolution before
}


class QuantisingError(ValueError):
    """This graph can't be quantised."""


def quantise(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> onnx.ModelProto:
    """A copy of `model`, as `export.trace` makes it, with 8-bit convolutions from features to restored
    features: weights by channel, activations by the range they have on `frames` [F, H, W, 3].

    Raises QuantisingError.
    """
    chosen = list(_to_quantise(model.graph.node))
    if not chosen:  # which the library takes for: all
        raise QuantisingError("there is no convolution to hold in eight bits")
    try:
        return _quantised(model, frames, chosen)
    except Exception as error:  # the boundary to the library, whose exceptions share no base class
        raise QuantisingError(f"eight bits: {error}") from error


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
        (name,) = FRAMES
        return next(({name: batch} for batch in self._batches), None)


def _to_quantise(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the convolutions from TEACHER to STUDENT, but for what reads the finest level alone; `nodes`
    in topological order."""
    finest, *_ = TEACHER
    nodes = list(nodes)
    network = ancestors(nodes, set(STUDENT)) - ancestors(nodes, set(TEACHER))
    for node in nodes:
        if node.name in network and node.op_type in _CONVOLUTIONS and finest not in node.input:
            yield node.name
