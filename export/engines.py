"""The engines of a bundle: prepared, verified, recorded in `parity.json`, and tried on drawn damage."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.accept import Candidate, verify_engines
from export.bundle.engines.engine import run_engine
from export.bundle.engines.specs import FALLBACK
from export.bundle.manifest import INT8_GRAPH, BundleError, EngineEntry
from export.bundle.reading import judge
from export.golden import spread
from export.parity import Baseline, Parity
from export.prepare import prepare
from export.report import show_parity, show_sensitivity
from export.sensitivity import sensitivity
from training.images import read_frames

_MAX_QUANTISER_FRAMES = 64
"""More hardly widen the activation ranges."""


def verified_engines(
    wanted: Sequence[str] | None, baseline: Baseline, to_quantise: Sequence[Path]
) -> tuple[EngineEntry, ...]:
    """Prepares the `wanted` engines (None: all that can be built here), int8 with the images `to_quantise`,
    and verifies them: those of the bundle, in order of preference. Raises BundleError."""
    root, geometry = baseline.root, baseline.geometry
    frames = read_frames(spread(to_quantise, _MAX_QUANTISER_FRAMES), geometry)
    entries, not_made = prepare(wanted, root, geometry, frames)
    candidates, rejected = verify_engines(entries, baseline)
    left_out = not_made | rejected
    show_parity(candidates, left_out)
    kept = [each for each in candidates if each.entry.id not in left_out]
    engines = _write_parity(root, kept, len(baseline.golden.frames))
    if missing := [name for name in wanted or () if name in left_out]:
        raise BundleError(
            f"{', '.join(missing)}: asked for by --engines, and left out for the reason above: there is no "
            "bundle; name others, or none"
        )
    return engines


def _write_parity(root: Path, kept: Sequence[Candidate], frames: int) -> tuple[EngineEntry, ...]:
    """Writes `parity.json`, on `frames` golden frames, and returns the engines as the manifest lists them, in
    the same order; deletes the files of others. Raises BundleError without the one that runs everywhere."""
    if FALLBACK not in {each.entry.id for each in kept if each.parity.status == "verified"}:
        raise BundleError(f"{FALLBACK} does not agree with the checkpoint, so there is no bundle")
    used = {root / name for each in kept for name in each.entry.files}
    for path in {root / INT8_GRAPH, *root.glob("engines/*")} - used:
        path.unlink(missing_ok=True)
    content = Parity(frames=frames, engines=tuple(each.parity for each in kept))
    (root / "parity.json").write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return tuple(map(_measured, kept))


def _measured(candidate: Candidate) -> EngineEntry:
    parity = candidate.parity
    measured = {"guard_band": parity.guard_band, "heatmap_deviation": parity.max_heatmap_deviation}
    return EngineEntry.model_validate(candidate.entry.model_dump() | measured)


def try_damage(
    engines: Iterable[EngineEntry],
    baseline: Baseline,
    scores: Mapping[Path, float],
    inside: NDArray[np.bool_],
) -> None:
    """Shows how much damage is found by the fastest engine that runs here, drawn on good images that are OK
    without. `scores` are raw."""
    entry = next(each for each in engines if each.heatmap_deviation is not None)
    assert entry.guard_band is not None
    scale, band = baseline.thresholds.image, entry.guard_band
    good = [path for path, raw in scores.items() if judge(scale.score(raw), band)[0] == "OK"]
    with closing(baseline.open(entry)) as engine:
        run = partial(run_engine, engine)
        show_sensitivity(sensitivity(run, good, baseline.geometry, inside, scale, band))
