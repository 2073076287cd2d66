"""Which engines a bundle contains, and the files that each needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.bundle.manifest import (
    FLOAT32_CONVOLUTIONS,
    GRAPH,
    HALF_GRAPH,
    INT8_GRAPH,
    BundleError,
    EngineEntry,
)
from export.quantise import QuantisingError, quantise
from export.tensorrt import ID as PLAN_ID
from export.tensorrt import build_plan, plans_for_here, refusal
from training.geometry import Geometry

_FILES = {
    "onnx-cuda-fp16": HALF_GRAPH,
    "openvino-int8": INT8_GRAPH,
    "openvino-bf16": GRAPH,
    "openvino-f32": GRAPH,
    "onnx-f32": GRAPH,
}
"""Engines that run a graph directly, perhaps at lower precision; TensorRT engines are built from one."""
EVERYWHERE = "onnx-f32"
"""The engine in every bundle: it runs on any machine."""
KNOWN = (*_FILES, "tensorrt-fp16-smNN", "tensorrt-rtx-fp16-smNN")


class UnknownEngineError(ValueError):
    """There is no engine with that id."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The engines whose files exist, and, by id, the reason why others were left out."""

    entries: tuple[EngineEntry, ...]
    left_out: dict[str, str]


def check_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """`ids` without duplicates. Raises UnknownEngineError."""
    wanted = tuple(dict.fromkeys(ids))
    for name in wanted:
        if name not in _FILES and not PLAN_ID.fullmatch(name):
            raise UnknownEngineError(f"there is no engine {name!r}; known: {', '.join(KNOWN)}")
    return wanted


def refuse(wanted: Iterable[str] | None) -> None:
    """Raises BundleError if one of `wanted` can't be built here. Called first, before any long step."""
    for name in wanted or ():
        if PLAN_ID.fullmatch(name) and (reason := refusal(name)):
            raise BundleError(f"{name} can't be built here: {reason}")


def prepare(
    wanted: Sequence[str] | None, root: Path, geometry: Geometry, good: NDArray[np.uint8]
) -> Prepared:
    """Writes the files of the engines `wanted` (None: all that can be built here) into the unfinished bundle
    at `root`, which has the graphs. Int8 ranges come from `good` frames uint8 [F, H, W, 3]. Raises
    BundleError."""
    names = dict.fromkeys([*(plans_for_here() if wanted is None else ()), *(wanted or _FILES), EVERYWHERE])
    entries, left_out = list[EngineEntry](), dict[str, str]()
    for name in names:
        try:
            entries.append(_prepared(name, root, geometry, good))
        except QuantisingError as error:
            left_out[name] = str(error)
        except BundleError as error:
            if wanted is not None:
                raise
            left_out[name] = str(error)
    return Prepared(tuple(entries), left_out)


def _prepared(name: str, root: Path, geometry: Geometry, good: NDArray[np.uint8]) -> EngineEntry:
    if PLAN_ID.fullmatch(name):
        return build_plan(name, root, geometry)
    if _FILES[name] == INT8_GRAPH:
        onnx.save(quantise(onnx.load(root / GRAPH), good), root / INT8_GRAPH)
    return EngineEntry(id=name, file=_FILES[name])


def variants(entry: EngineEntry) -> list[EngineEntry]:
    """`entry` in the ways to run it that are tried in turn, the fastest first."""
    if not entry.id.endswith("-bf16"):
        return [entry]
    return [entry.model_copy(update={"float32_convolutions": count}) for count in FLOAT32_CONVOLUTIONS]


def on_gpu(name: str) -> bool:
    """Whether this engine needs a GPU."""
    return name.startswith(("tensorrt-", "onnx-cuda-"))


def in_int8(name: str) -> bool:
    """Whether this engine runs the quantised graph."""
    return name.endswith("-int8")


def in_float32(name: str) -> bool:
    """Whether this engine computes in float32, as the checkpoint does."""
    return name.endswith("-f32")


def in_float16(name: str) -> bool:
    """Whether this engine is made from the float16 graph."""
    return "-fp16" in name
