"""Keeps the first convolutions in float32 when OpenVINO computes in bfloat16."""

from typing import Any

import numpy as np

_CONVOLUTIONS = {"Convolution", "GroupConvolution"}

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
    """Marks the first `count` convolutions of `graph`, an OpenVINO model, and all operations before them."""
    from openvino import Tensor

    (marked,) = core.read_model(_MARKED, Tensor(np.empty(0, np.uint8))).get_parameters()
    mark = marked.get_rt_info()[_MARK]
    passed = 0
    for operation in graph.get_ordered_ops():
        operation.set_rt_info(mark, _MARK)
        passed += operation.get_type_name() in _CONVOLUTIONS
        if passed == count:
            return
