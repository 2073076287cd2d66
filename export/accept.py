"""The parity certificate: every engine is compared with the checkpoint on the golden frames, at every batch
size and position in the batch. One that differs too much is not put into the bundle."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from export.bundle.engines.choice import open_engine
from export.bundle.engines.engine import Engine, EngineFailed, ask
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.manifest import (
    BATCH_SIZES,
    HALF_GRAPH,
    MAX_GUARD_BAND,
    MAX_HEATMAP_DEVIATION,
    BatchSize,
    BundleError,
    EngineEntry,
    Thresholds,
)
from export.bundle.predict import cyclic_windows
from export.bundle.reading import judge
from export.bundle.scale import THRESHOLD
from export.engines import in_float16, in_float32, in_int8, on_gpu, variants
from export.golden import Golden
from export.race import Times, race
from export.survey import Survey
from training.geometry import Geometry

_ROUNDS = 5
"""Timed runs per engine and batch size."""

_NARROW = MAX_GUARD_BAND / 2
"""A guard band with which no other way to run the engine is tried."""

_TOO_FAR = f"it would need a guard band wider than {MAX_GUARD_BAND}"
_MAP_TOO_FAR = f"its heatmap deviates by more than {MAX_HEATMAP_DEVIATION}"


class ParityError(ValueError):
    """An engine reverses a verdict of the checkpoint (OK and NG), so no bundle may be made."""


class EngineParity(BaseModel):
    """The comparison of one engine with the checkpoint. Deviations are the largest, on the 0 to 1 scales.

    `guard_band`: half the width of the interval around the threshold in which the verdict is REVIEW: twice
    the largest score deviation on golden frames, or the largest of the survey if that is more. Of a float16
    engine that was not run, what its graph needs on the CPU.
    `flips`: reversed verdicts, 0 or, if the engine was not run, None: with one there is no certificate.
    `ms_per_image`: one per batch size; the engines took turns, so their ratios are meaningful.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    status: Literal["verified", "not_run"]
    reason: str = ""
    batch_sizes: tuple[BatchSize, ...]
    max_score_deviation: float | None = None
    max_heatmap_deviation: float | None = None
    guard_band: float | None = None
    flips: int | None = None
    ms_per_image: tuple[float, ...] | None = None

    @property
    def too_far(self) -> str | None:
        """The reason why an engine that was run must be left out; None if it deviates little enough."""
        if (self.guard_band or 0) > MAX_GUARD_BAND:
            return _TOO_FAR
        return _MAP_TOO_FAR if (self.max_heatmap_deviation or 0) > MAX_HEATMAP_DEVIATION else None


class Parity(BaseModel):
    """The content of `parity.json`; `frames` is the number of golden frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    engines: tuple[EngineParity, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What the engines of the unfinished bundle at `root` have to reproduce."""

    root: Path
    geometry: Geometry
    golden: Golden
    survey: Survey
    thresholds: Thresholds

    def open(self, entry: EngineEntry) -> Engine:
        """Raises BundleError if this machine can't run it."""
        return open_engine(entry, self.root, self.geometry)


def prove(entry: EngineEntry, trial: Trial) -> tuple[EngineParity, str | None]:
    """Runs `entry` on all golden frames, batch sizes and positions, then on the survey. Returns the proof,
    and the reason if the engine must be left out.

    The status of an engine that cannot run here is `not_run`, with the reason. Raises ParityError on a flip.
    """
    try:
        with closing(trial.open(entry)) as engine:
            proof = _compare(entry, engine, trial)
            if proof.too_far or in_float32(entry.id):
                return proof, proof.too_far
            return _surveyed(proof, engine, trial)
    except (BundleError, EngineFailed) as error:
        reason = str(error)
        proof = EngineParity(id=entry.id, status="not_run", reason=reason, batch_sizes=entry.batch_sizes)
        # A float16 graph can be checked on the CPU instead; for an int8 graph there is no such check.
        return proof, reason if in_int8(entry.id) else None


def certify(
    entries: Sequence[EngineEntry], trial: Trial
) -> tuple[list[tuple[EngineEntry, EngineParity]], dict[str, str]]:
    """Every engine as it should be run, with its proof, in order of preference; and the reasons why some must
    be left out, by engine id.

    Raises ParityError on a flip, except by an int8 engine, which is left out: not every network can be
    quantised. So are float16 engines that can't be run here if their graph flips on the CPU.
    """
    chosen, proofs, unfit = dict[str, EngineEntry](), list[EngineParity](), dict[str, str]()
    for entry in entries:
        chosen[entry.id], proof, objection = _best_way(variants(entry), trial)
        if proof is not None:
            proofs.append(proof)
        if objection:
            unfit[entry.id] = objection
    unseen = [proof for proof in proofs if proof.status == "not_run" and in_float16(proof.id)]
    if unseen:
        band, objection = _half_graph(trial)
        if objection:
            unfit |= {proof.id: objection for proof in unseen}
        proofs = [
            proof.model_copy(
                update={"guard_band": band, "reason": f"{proof.reason}; its graph on the CPU: {band:.1e}"}
            )
            if proof in unseen
            else proof
            for proof in proofs
        ]
    fit = [proof.id for proof in proofs if proof.status == "verified" and proof.id not in unfit]
    times = _race([chosen[name] for name in fit], trial)
    proofs = [proof.model_copy(update={"ms_per_image": times.get(proof.id)}) for proof in proofs]
    return [(chosen[proof.id], proof) for proof in sorted(proofs, key=_preference)], unfit


def _best_way(
    ways: Sequence[EngineEntry], trial: Trial
) -> tuple[EngineEntry, EngineParity | None, str | None]:
    """The first of the `ways` to run an engine whose guard band is narrow, or that with the narrowest, with
    what `prove` gives. No proof if it flips: an int8 engine may, for others ParityError is raised."""
    tried = list[tuple[EngineEntry, EngineParity | None, str | None]]()
    for way in ways:
        try:
            proof, objection = prove(way, trial)
        except ParityError as error:
            tried.append((way, None, str(error)))
            continue
        tried.append((way, proof, objection))
        if objection is None and (proof.guard_band or 0.0) <= _NARROW:
            break
    way, best, objection = min(tried, key=_width)
    if best is None and not in_int8(way.id):
        raise ParityError(objection)
    return way, best, objection


def _width(tried: tuple[EngineEntry, EngineParity | None, str | None]) -> tuple[bool, float]:
    _, proof, objection = tried
    return objection is not None, math.inf if proof is None else proof.guard_band or 0.0


def _race(entries: Sequence[EngineEntry], trial: Trial) -> Times:
    with ExitStack() as stack:
        engines = {entry.id: stack.enter_context(closing(trial.open(entry))) for entry in entries}
        return race(engines, trial.golden.frames, BATCH_SIZES, rounds=_ROUNDS)


def _half_graph(trial: Trial) -> tuple[float, str | None]:
    """Checks the float16 graph on the CPU, in place of the engines that need a GPU. Returns the guard band it
    needs there, on golden frames and survey, and the reason if these engines must be left out."""
    entry = EngineEntry(id="onnx-fp16", file=HALF_GRAPH, batch_sizes=(1,))
    with closing(OnnxRuntimeEngine(trial.root / HALF_GRAPH, trial.geometry, CPU)) as engine:
        try:
            proof = _compare(entry, engine, trial)
        except (ParityError, EngineFailed) as error:
            return math.inf, str(error)
        proof, objection = _surveyed(proof, engine, trial)
        return proof.guard_band or 0.0, objection


def _surveyed(proof: EngineParity, engine: Engine, trial: Trial) -> tuple[EngineParity, str | None]:
    """`proof` with a guard band that covers the survey's deviations, too; the reason if the engine must be
    left out."""
    try:
        deviation = trial.survey.deviation(engine, trial.thresholds, max(proof.batch_sizes))
    except EngineFailed as error:
        return proof, str(error)
    wide = proof.model_copy(update={"guard_band": max(proof.guard_band or 0.0, deviation)})
    return wide, wide.too_far


def _preference(proof: EngineParity) -> tuple[int, float]:
    """Sort key. First GPU engines that could not be measured, since a machine that can run one has its GPU
    for this; then measured engines, fastest first; then the rest."""
    if proof.ms_per_image is None:
        return (0 if on_gpu(proof.id) else 2), 0.0
    return 1, sum(proof.ms_per_image)


def _compare(entry: EngineEntry, engine: Engine, trial: Trial) -> EngineParity:
    golden, thresholds = trial.golden, trial.thresholds
    expected = thresholds.image.scores(golden.scores)
    expected_maps = thresholds.pixel.scores(golden.heatmaps)
    score_deviations, heatmap_deviations = list[float](), list[float]()
    windows = list(cyclic_windows(len(golden.frames), entry.batch_sizes, every=True))
    for window in tqdm(windows, desc=f"parity of {entry.id}", unit="batch", leave=False, disable=None):
        heatmaps, raw_scores = ask(engine, golden.frames[window])
        scores = thresholds.image.scores(raw_scores)
        for index, score in zip(window, scores, strict=True):
            if is_flip(expected[index], score):
                frame = f"{golden.entries[index].file} ({golden.entries[index].source})"
                raise ParityError(
                    f"{entry.id} reverses the verdict on {frame} at batch size {len(window)}: "
                    f"the checkpoint scores {expected[index]:.4f}, the engine {score:.4f}"
                )
        score_deviations.append(_largest(scores - expected[window]))
        heatmap_deviations.append(_largest(thresholds.pixel.scores(heatmaps) - expected_maps[window]))
    return EngineParity(
        id=entry.id,
        status="verified",
        batch_sizes=entry.batch_sizes,
        max_score_deviation=max(score_deviations),
        max_heatmap_deviation=max(heatmap_deviations),
        guard_band=2 * max(score_deviations),
        flips=0,
    )


def is_flip(reference: float, score: float) -> bool:
    """Whether the verdict on `score` is OK and the checkpoint's, on `reference`, NG, or the reverse.

    Uses MAX_GUARD_BAND. An engine's own band is twice its largest deviation, so no score can cross it.
    """
    verdict, _ = judge(score, MAX_GUARD_BAND)
    return verdict == ("OK" if reference > THRESHOLD else "NG")


def _largest(deviations: NDArray[np.float64]) -> float:
    largest = float(np.abs(deviations).max())
    return largest if math.isfinite(largest) else math.inf
