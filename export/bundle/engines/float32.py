"""Keeps the first convolutions in float32 when OpenVINO computes in bfloat16."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from export.bundle.tensors import TEACHER

_CONVOLUTIONS = {"Convolution", "GroupConvolution"}
_BIAS = {"Constant", "Reshape"}
"""Operations that supply a bias to an addition."""

_MARK = "DisablePrecisionConversion_0"
# Attribute of operations that keep their precision. OpenVINO's Python API cannot create it, but can copy it
# from an operation in a file that has it.
_MARKED = b"""<net name="marked" version="11"><layers>
<layer id="0" name="value" type="Parameter" version="opset1">
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="dynamic:f16"/></rt_info>
<data shape="" element_type="f32"/><output><port id="0" precision="FP32"/></output></layer>
<layer id="1" name="same" type="Result" version="opset1">
<input><port id="0" precision="FP32"/></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


def keep_first_in_float32(core: Any, graph: Any, count: int) -> None:
    """Marks the first `count` convolutions of `graph`, an OpenVINO model, and all operations up to the next.

    If one of them is the end of a residual block, everything up to the block's sum is marked, even a further
    convolution: OpenVINO would fuse a sum of another precision into it, and fail at the first inference.
    Nothing is marked beyond the teacher's last level: with residual blocks that end in ReLU6, as those after
    it do, OpenVINO fails even if all of a block is marked.
    """
    from openvino import Tensor

    (marked,) = core.read_model(_MARKED, Tensor(np.empty(0, np.uint8))).get_parameters()
    mark = marked.get_rt_info()[_MARK]
    passed, due = 0, set[str]()
    for operation in graph.get_ordered_ops():
        if operation.get_type_name() in _CONVOLUTIONS:
            if passed >= count and not due:
                return
            passed += 1
            due |= set(_sums(operation))
        operation.set_rt_info(mark, _MARK)
        due.discard(operation.get_friendly_name())
        if any(TEACHER[-1] in output.get_names() for output in operation.outputs()):
            count = min(count, passed)


def _sums(operation: Any) -> Iterator[str]:
    """The name of the sum of two branches that the convolution `operation`, perhaps with a bias, ends in: no
    other operation reads it."""
    places = operation.output(0).get_target_inputs()
    readers = [node for node in (place.get_node() for place in places) if node.get_type_name() != "ShapeOf"]
    if [node.get_type_name() for node in readers] != ["Add"]:
        return
    (reader,) = readers
    if _BIAS & {term.get_node().get_type_name() for term in reader.input_values()}:
        yield from _sums(reader)
    else:
        yield reader.get_friendly_name()
