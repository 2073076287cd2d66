"""Which engines a bundle contains, and the files that each needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.bundle.engines.specs import ENGINES, FALLBACK, spec_of
from export.bundle.manifest import FLOAT32_CONVOLUTIONS, GRAPH, INT8_GRAPH, BundleError, EngineEntry
from export.plans import build_plan, plans_for_here, why_not_buildable
from export.quantise import quantise
from training.geometry import Geometry

_MORE_FLOAT32_CONVOLUTIONS = 20
"""Tried where `FLOAT32_CONVOLUTIONS` are not enough: where products look very different from part to part,
rounding in the teacher's next convolutions matters, too."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The engines whose files exist, and, by id, the reason why others were left out."""

    entries: tuple[EngineEntry, ...]
    left_out: dict[str, str]


def check_buildable(wanted: Iterable[str] | None) -> None:
    """Raises BundleError if one of `wanted` can't be built here. Called first, before any long step."""
    for name in wanted or ():
        if spec_of(name).is_plan and (reason := why_not_buildable(name)):
            raise BundleError(f"{name} can't be built here: {reason}")


def prepare(
    wanted: Sequence[str] | None, root: Path, geometry: Geometry, good: NDArray[np.uint8]
) -> Prepared:
    """Writes the files of the engines `wanted` (None: all that can be built here) into the unfinished bundle
    at `root`, which has the graphs. Int8 ranges come from `good` frames uint8 `[F, H, W, 3]`. Raises
    BundleError if one of `wanted` can't be made."""
    every = [*plans_for_here(), *(name for name, spec in ENGINES.items() if not spec.is_plan)]
    names = dict.fromkeys([*(every if wanted is None else wanted), FALLBACK])
    entries, left_out = list[EngineEntry](), dict[str, str]()
    for name in names:
        try:
            entries.append(_prepared(name, root, geometry, good))
        except BundleError as error:
            if wanted is not None:
                raise
            left_out[name] = str(error)
    return Prepared(tuple(entries), left_out)


def _prepared(name: str, root: Path, geometry: Geometry, good: NDArray[np.uint8]) -> EngineEntry:
    spec = spec_of(name)
    if spec.is_plan:
        return build_plan(name, root, geometry)
    if spec.graph == INT8_GRAPH:
        onnx.save(quantise(onnx.load(root / GRAPH), good), root / INT8_GRAPH)
    return EngineEntry(id=name, file=spec.graph)


def configurations(entry: EngineEntry) -> list[EngineEntry]:
    """`entry` as it can be run, to be tried in turn, the fastest first.

    Int8 has one configuration only: on tiles, where it deviates too much, its heatmaps were 0.03 and more
    from the checkpoint's with 20 convolutions in float32, too (docs/log.md, "More convolutions in float32").
    """
    if spec_of(entry.id).precision != "bf16":
        return [entry]
    return [
        entry.model_copy(update={"float32_convolutions": count})
        for count in (FLOAT32_CONVOLUTIONS, _MORE_FLOAT32_CONVOLUTIONS)
    ]
