"""Which engines a bundle contains, and the files that each needs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.bundle.engines.specs import ENGINES, FALLBACK, spec_of
from export.bundle.manifest import GRAPH, INT8_GRAPH, BundleError, EngineEntry
from export.plans import build_plan, plans_for_here, why_not_buildable
from export.quantise import quantise
from training.geometry import Geometry

LeftOut = dict[str, str]
"""By id: the reason why an engine is left out of the bundle."""


def check_buildable(wanted: Iterable[str] | None) -> None:
    """Raises BundleError if one of `wanted` can't be built here. Called first, before any long step."""
    for name in wanted or ():
        if spec_of(name).is_plan and (reason := why_not_buildable(name)):
            raise BundleError(f"{name} can't be built here: {reason}")


def prepare(
    wanted: Sequence[str] | None, root: Path, geometry: Geometry, good: NDArray[np.uint8]
) -> tuple[list[EngineEntry], LeftOut]:
    """Writes the files of the engines `wanted` (None: all that can be built here) into the unfinished bundle
    at `root`, which has the graphs. Int8 ranges come from `good` frames uint8 `[F, H, W, 3]`. Raises
    BundleError if one of `wanted` can't be made."""
    every = [*plans_for_here(), *(name for name, spec in ENGINES.items() if not spec.is_plan)]
    names = dict.fromkeys([*(every if wanted is None else wanted), FALLBACK])
    entries, left_out = list[EngineEntry](), LeftOut()
    for name in names:
        try:
            entries.append(_prepared(name, root, geometry, good))
        except BundleError as error:
            if wanted is not None:
                raise
            left_out[name] = str(error)
    return entries, left_out


def _prepared(name: str, root: Path, geometry: Geometry, good: NDArray[np.uint8]) -> EngineEntry:
    spec = spec_of(name)
    if spec.is_plan:
        return build_plan(name, root, geometry)
    if spec.graph == INT8_GRAPH:
        onnx.save(quantise(onnx.load(root / GRAPH), good), root / INT8_GRAPH)
    return EngineEntry(id=name, file=spec.graph)
