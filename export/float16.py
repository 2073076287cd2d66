"""The graph in float16, strongly typed, for GPUs.

From the first convolution to the features of both networks, everything is float16; normalisation before and
distances, sums, smoothing and score after stay float32. Existing ONNX converters are not used: they also
insert float16 casts between nodes that must stay in float32.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from export.bundle.tensors import STUDENT, TEACHER
from export.nodes import ancestors

_MAX_FLOAT16 = float(np.finfo(np.float16).max)
"""Weights are clipped to it: beyond it float16 is infinite."""


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, which `export.trace` made, with both networks in float16.

    The exporter has folded batch normalisation into the weights, so they are rounded only once.
    """
    graph = infer_shapes(model).graph
    network = ancestors(graph.node, {*TEACHER, *STUDENT}) & _after_first_convolution(graph.node)
    read_in_half = {name for node in graph.node if node.name in network for name in node.input}
    read_in_float = {name for node in graph.node if node.name not in network for name in node.input}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = {name for name, type_ in types.items() if type_ == TensorProto.FLOAT}

    def nodes() -> Iterator[onnx.NodeProto]:
        for node in graph.node:
            if node.name in network:
                yield _with_half_values(node, floats)
                for name in sorted(floats & read_in_float & set(node.output)):
                    yield helper.make_node("Cast", [_half(name)], [name], to=TensorProto.FLOAT)
            else:
                yield node
                for name in sorted(floats & read_in_half & set(node.output)):
                    yield helper.make_node("Cast", [name], [_half(name)], to=TensorProto.FLOAT16)

    tensors = [
        tensor for tensor in graph.initializer if tensor.name in read_in_float or tensor.name not in floats
    ]
    tensors += [_rounded(tensor) for tensor in graph.initializer if tensor.name in floats & read_in_half]
    return _remade(model, nodes(), tensors)


def simulate_float16(half: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `half`, which `to_float16` made, that rounds on a CPU as a GPU does: it computes in float32,
    and casts every value that is float16 in `half` to it and back. ONNX Runtime's CPU provider would run
    `half` in float32, with nothing but the weights rounded."""
    typed = infer_shapes(half).graph.value_info
    halves = {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT16}

    def nodes() -> Iterator[onnx.NodeProto]:
        for node in half.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.output[:] = [f"{name}.exact" if name in halves else name for name in node.output]
            for attribute in copy.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT
            yield copy
            for name in halves & set(node.output):
                yield helper.make_node("Cast", [f"{name}.exact"], [f"{name}.bits"], to=TensorProto.FLOAT16)
                yield helper.make_node("Cast", [f"{name}.bits"], [name], to=TensorProto.FLOAT)

    return _remade(half, nodes(), [_widened(tensor) for tensor in half.graph.initializer])


def _remade(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """`model` with other nodes and initializers, checked."""
    graph = model.graph
    made = helper.make_model(
        helper.make_graph(list(nodes), graph.name, graph.input, graph.output, tensors),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def _half(name: str) -> str:
    return f"{name}.half"


def _with_half_values(node: onnx.NodeProto, floats: set[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        names[:] = [_half(name) if name in floats else name for name in names]
    return copy


def _rounded(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor).clip(-_MAX_FLOAT16, _MAX_FLOAT16)
    return numpy_helper.from_array(values.astype(np.float16), _half(tensor.name))


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _after_first_convolution(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of the convolutions and of the nodes that depend on one."""
    made, names = set[str](), set[str]()
    for node in nodes:
        if node.op_type == "Conv" or made & set(node.input):
            made |= set(node.output)
            names.add(node.name)
    return names
