"""Which engines a bundle gets, and what has to be built for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.bundle.manifest import EngineEntry

GRAPH, HALF_GRAPH = "model.onnx", "model.fp16.onnx"
_FILES = {
    "onnx-cuda-fp16": HALF_GRAPH,
    "openvino-bf16": GRAPH,
    "openvino-f32": GRAPH,
    "onnx-f32": GRAPH,
}
"""Engines that run a graph as it is."""
KNOWN = tuple(_FILES)
ALWAYS = "onnx-f32"
"""Runs everywhere: what is left when nothing else does."""


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
    if unknown := [name for name in wanted if name not in _FILES]:
        raise UnknownEngineError(f"there is no engine {unknown[0]!r}, only {', '.join(_FILES)}")
    return wanted


def prepare(wanted: Sequence[str] | None, root: Path) -> Prepared:
    """Makes the files of the engines `wanted` (None: all that can be made here) in the unfinished bundle at
    `root`, where the graphs are."""
    entries = dict[str, EngineEntry]()
    left_out = dict[str, str]()
    for name in [*(wanted or _FILES), ALWAYS]:
        entries[name] = EngineEntry(id=name, file=_FILES[name])
    return Prepared(tuple(entries.values()), left_out)


def on_gpu(name: str) -> bool:
    """Whether the engine of that id needs a GPU."""
    return name.startswith(("tensorrt-", "onnx-cuda-"))


def in_half_precision(name: str) -> bool:
    """Whether the engine of that id runs the half-precision graph."""
    return "-fp16" in name
