"""The table of engines, by id."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from export.bundle.manifest import FLOAT16_GRAPH, GRAPH, INT8_GRAPH, Flavour

Precision = Literal["f32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """`graph`: the file it runs or, with TensorRT, is built from at export. `precision`: in which
    its convolutions are computed, most of them. `gpu`: whether it needs one."""

    runtime: Literal["onnxruntime", "openvino"] | Flavour
    graph: str
    precision: Precision
    gpu: bool = False

    @property
    def is_plan(self) -> bool:
        """Whether it is built for one kind of GPU, which its id ends in: `sm89` is compute capability 8.9."""
        return self.runtime in get_args(Flavour)


FALLBACK = "onnx-f32"
"""The engine in every bundle: it runs on any machine."""

_TARGET, _ANY_TARGET = re.compile(r"-sm\d{2,3}$"), "-smNN"

ENGINES = {
    "onnx-cuda-fp16": EngineSpec("onnxruntime", FLOAT16_GRAPH, "fp16", gpu=True),
    "openvino-int8": EngineSpec("openvino", INT8_GRAPH, "int8"),
    "openvino-bf16": EngineSpec("openvino", GRAPH, "bf16"),
    "openvino-f32": EngineSpec("openvino", GRAPH, "f32"),
    FALLBACK: EngineSpec("onnxruntime", GRAPH, "f32"),
    f"tensorrt-fp16{_ANY_TARGET}": EngineSpec("tensorrt", FLOAT16_GRAPH, "fp16", gpu=True),
    f"tensorrt-rtx-fp16{_ANY_TARGET}": EngineSpec("tensorrt-rtx", FLOAT16_GRAPH, "fp16", gpu=True),
}
"""In the order in which they are built and, untimed, listed; NN stands for a compute capability."""


class UnknownEngineError(ValueError):
    """There is no engine with that id."""


def spec_of(name: str) -> EngineSpec:
    """The spec of the engine with the id `name`. Raises UnknownEngineError."""
    known = ENGINES.get(_TARGET.sub(_ANY_TARGET, name))
    if known is None or name.endswith(_ANY_TARGET):
        raise UnknownEngineError(f"there is no engine {name!r}; known: {', '.join(ENGINES)}")
    return known


def auto_or_known(name: str) -> str:
    """Gives `name` back if it is auto or an engine's id, and raises UnknownEngineError otherwise."""
    if name != "auto":
        spec_of(name)
    return name
