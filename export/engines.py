"""Which engines a bundle gets, and what has to be built for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.bundle.manifest import GRAPH, HALF_GRAPH, INT8_GRAPH, BundleError, EngineEntry
from export.quantise import QuantisingError, quantise
from export.tensorrt import ID as PLAN_ID
from export.tensorrt import RTX_TARGETS, build_plan, refusal
from training.geometry import Geometry

_FILES = {
    "onnx-cuda-fp16": HALF_GRAPH,
    "openvino-int8": INT8_GRAPH,
    "openvino-bf16": GRAPH,
    "openvino-f32": GRAPH,
    "onnx-f32": GRAPH,
}
"""Engines that run a graph, as it is or in fewer bits; the others are built from one."""
_EVERYWHERE = "onnx-f32"
"""In every bundle: what is left when nothing else runs."""
KNOWN = (*_FILES, "tensorrt-fp16-smNN", "tensorrt-rtx-fp16-smNN")


class UnknownEngineError(ValueError):
    """There is no engine of that name."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Engines whose files are there, and why others have none."""

    entries: tuple[EngineEntry, ...]
    left_out: dict[str, str]


def check_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """`ids`, once each; raises UnknownEngineError."""
    wanted = tuple(dict.fromkeys(ids))
    for name in wanted:
        if name not in _FILES and not PLAN_ID.fullmatch(name):
            raise UnknownEngineError(f"there is no engine {name!r}, only {', '.join(KNOWN)}")
    return wanted


def refuse(wanted: Iterable[str] | None) -> None:
    """Raises BundleError if an engine that was asked for can't be built here: before the long work."""
    for name in wanted or ():
        if PLAN_ID.fullmatch(name) and (reason := refusal(name)):
            raise BundleError(f"{name} can't be built here: {reason}")


def prepare(
    wanted: Sequence[str] | None, root: Path, geometry: Geometry, good: NDArray[np.uint8]
) -> Prepared:
    """Makes the files of the engines `wanted` (None: all that can be made here) in the unfinished bundle at
    `root`, where the graphs are; `good` frames tell what eight bits must hold. Raises BundleError."""
    ahead = [f"tensorrt-rtx-fp16-sm{target}" for target in RTX_TARGETS]
    left_out = {name: reason for name in ahead if (reason := refusal(name))} if wanted is None else {}
    names = dict.fromkeys([*(ahead if wanted is None else ()), *(wanted or _FILES), _EVERYWHERE])
    for name in [name for name in names if _FILES.get(name) == INT8_GRAPH]:
        try:
            onnx.save(quantise(onnx.load(root / GRAPH), good), root / INT8_GRAPH)
        except QuantisingError as error:
            left_out[name] = str(error)
            del names[name]
    entries = (
        build_plan(name, root, geometry)
        if PLAN_ID.fullmatch(name)
        else EngineEntry(id=name, file=_FILES[name])
        for name in names
        if name not in left_out
    )
    return Prepared(tuple(entries), left_out)


def on_gpu(name: str) -> bool:
    """Whether the engine of that id needs a GPU."""
    return name.startswith(("tensorrt-", "onnx-cuda-"))


def in_eight_bits(name: str) -> bool:
    """Whether the engine of that id is made of the quantised graph."""
    return name.endswith("-int8")


def in_float32(name: str) -> bool:
    """Whether only rounding is between the engine of that id and the checkpoint."""
    return name.endswith("-f32")


def in_half_precision(name: str) -> bool:
    """Whether the engine of that id is made of the half-precision graph."""
    return "-fp16" in name
