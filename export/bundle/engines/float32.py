"""Which convolutions stay in float32 where OpenVINO computes in bfloat16."""

from typing import Any

import numpy as np

_FIRST = 3
"""The stem and the two that follow it, whose filters look for small differences of large values: rounding
between them lets scores deviate more than all other rounding in the teacher, for a few hundredths of the
time."""
_CONVOLUTIONS = {"Convolution", "GroupConvolution"}

_MARK = "DisablePrecisionConversion_0"
# OpenVINO's mark of operations that its lower precision does not concern. Python has no way to make one, but
# can take it from an operation that was read with one.
_MARKED = b"""<net name="marked" version="11"><layers>
<layer id="0" name="value" type="Parameter" version="opset1">
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="dynamic:f16"/></rt_info>
<data shape="" element_type="f32"/><output><port id="0" precision="FP32"/></output></layer>
<layer id="1" name="same" type="Result" version="opset1">
<input><port id="0" precision="FP32"/></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


def keep_first_in_float32(core: Any, graph: Any) -> None:
    """Marks the first convolutions of `graph`, an OpenVINO model, and what leads to them."""
    from openvino import Tensor

    (marked,) = core.read_model(_MARKED, Tensor(np.empty(0, np.uint8))).get_parameters()
    mark = marked.get_rt_info()[_MARK]
    passed = 0
    for operation in graph.get_ordered_ops():
        operation.set_rt_info(mark, _MARK)
        passed += operation.get_type_name() in _CONVOLUTIONS
        if passed == _FIRST:
            return
