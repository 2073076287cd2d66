"""Engines on OpenVINO (CPU), which is imported only when one is opened."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.cores import engine_threads
from export.bundle.engines.engine import Prediction, last_line
from export.bundle.engines.float32 import keep_first_in_float32
from export.bundle.manifest import BundleError
from export.bundle.tensors import FRAMES, OUTPUTS, STUDENT, TEACHER
from training.geometry import Geometry

FloatType = Literal["f32", "bf16"]
_BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
_TO_LAST, _TO_SECOND = [0, 2, 3, 1], [0, 3, 1, 2]
"""Order of axes that moves the channels."""


@dataclass(frozen=True, slots=True)
class _Subgraph:
    """What lies between named tensors of the graph, and the precision of its convolutions."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: FloatType


def _subgraphs(graph: Any, precision: FloatType) -> tuple[_Subgraph, ...]:
    """bfloat16 is accurate enough for both networks, except the teacher's first convolutions. With distances
    and score in bfloat16, too, scores deviate twice as much. Quantised convolutions run in int8."""
    if precision == "f32":
        return (_Subgraph((FRAMES,), OUTPUTS, "f32"),)
    values = _values(graph)
    student = tuple(name for name in STUDENT if name in values)
    features = TEACHER[-len(student) :] + student
    return _Subgraph((FRAMES,), features, "bf16"), _Subgraph(features, OUTPUTS, "f32")


class OpenVinoEngine:
    """The graph, in subgraphs of one precision each."""

    def __init__(
        self, path: Path, geometry: Geometry, precision: FloatType, float32_convolutions: int = 0
    ) -> None:
        """`float32_convolutions`: how many of the first are not computed in bfloat16. Raises BundleError."""
        openvino = _runtime()
        if precision == "bf16" and not _BF16_INSTRUCTIONS & _cpu_flags():
            raise BundleError(
                "this CPU has no bfloat16 instructions that OpenVINO uses (avx512_bf16 or amx_bf16)"
            )
        core = openvino.Core()
        try:
            # Otherwise Arm CPUs with bfloat16 instructions compute transposed convolutions in it, whatever
            # precision is asked for. Among the options of `compile_model` it would be too late.
            core.set_property("CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
            graph = core.read_model(path)
            if precision == "bf16":
                keep_first_in_float32(core, graph, float32_convolutions)
            self._requests = [
                (subgraph, _compile(core, graph.clone(), subgraph))
                for subgraph in _subgraphs(graph, precision)
            ]
        except Exception as error:  # exceptions of the runtime have no common base class
            raise BundleError(f"OpenVINO can't open {path.name}: {last_line(error)}") from error
        _check_signature(self._requests[0][1].model_inputs, path, geometry)

    def run(self, frames: NDArray[np.uint8]) -> Prediction:
        values: dict[str, Any] = {FRAMES: frames}
        for subgraph, request in self._requests:
            inputs = [values[name] for name in subgraph.inputs]
            outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
            values |= {name: outputs[place] for place, name in enumerate(subgraph.outputs)}
        return Prediction(*(values[name].copy() for name in OUTPUTS))  # the next call overwrites them

    def close(self) -> None:
        self._requests.clear()


def _runtime() -> Any:
    """The module `openvino`, without its telemetry: it reports each import to Intel from a forked process,
    and in a factory, no program may open connections that are not configured."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if not installed
    try:
        import openvino
    except ImportError as error:
        raise BundleError("openvino is not installed") from error
    return openvino


def _compile(core: Any, graph: Any, subgraph: _Subgraph) -> Any:
    """An inference request for `subgraph` of `graph`, for any batch size. Changes `graph`."""
    from openvino import Model, opset13

    values = _values(graph)
    inputs = list[Any]()
    for name in subgraph.inputs:
        readers = values[name].get_target_inputs()
        passed = _passed(name, values[name])
        parameter = opset13.parameter(passed.get_partial_shape(), passed.get_element_type(), name=name)
        read = opset13.transpose(parameter, _TO_SECOND) if name in TEACHER else parameter
        for reader in readers:
            reader.replace_source_output(read.output(0))
        inputs.append(parameter)
    results = (
        graph.get_results()
        if subgraph.outputs == OUTPUTS
        else [opset13.result(_passed(name, values[name])) for name in subgraph.outputs]
    )
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": subgraph.precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # engines of several products would be pinned to the same cores
        "INFERENCE_NUM_THREADS": engine_threads(),
    }
    return core.compile_model(Model(results, inputs, "subgraph"), "CPU", options).create_infer_request()


def _passed(name: str, value: Any) -> Any:
    """`value` as it passes from one subgraph to another: the teacher's features with their channels last, as
    convolutions give them. OpenVINO takes a twentieth of the time to bring them first."""
    from openvino import opset13

    return opset13.transpose(value, _TO_LAST).output(0) if name in TEACHER else value


def _values(graph: Any) -> dict[str, Any]:
    """The outputs of all operations, by name."""
    return {name: out for node in graph.get_ops() for out in node.outputs() for name in out.get_names()}


def _check_signature(inputs: Sequence[Any], path: Path, geometry: Geometry) -> None:
    (frames,) = inputs
    _, *sides = frames.get_partial_shape()
    element = frames.get_element_type().get_type_name()
    if [element, *map(str, sides)] != ["u8", str(geometry.height), str(geometry.width), "3"]:
        raise BundleError(
            f"{path.name} does not take frames of {geometry.height}×{geometry.width}: {element} {sides}"
        )


def _cpu_flags() -> set[str]:
    """Instruction sets of the CPU, by their names in Linux; empty on another system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
