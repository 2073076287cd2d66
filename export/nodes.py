"""Which nodes of an ONNX graph depend on which."""

from collections.abc import Iterable

import onnx


def ancestors(nodes: Iterable[onnx.NodeProto], values: set[str]) -> set[str]:
    """Names of the nodes that the tensors named `values` depend on; `nodes` are in topological order."""
    needed, names = set(values), set[str]()
    for node in reversed(list(nodes)):
        if needed & set(node.output):
            needed |= set(node.input)
            names.add(node.name)
    return names
