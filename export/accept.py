"""The parity certificate: an engine answers the golden frames as the checkpoint does, at every batch size and
every position in the batch, or it is not in the bundle."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
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
    BatchSize,
    BundleError,
    EngineEntry,
    Thresholds,
)
from export.bundle.predict import cyclic_windows
from export.bundle.reading import judge
from export.bundle.scale import THRESHOLD
from export.engines import in_eight_bits, in_float32, in_half_precision, on_gpu
from export.golden import Golden
from export.race import Times, race
from export.survey import Survey
from training.geometry import Geometry

_ROUNDS = 5
_TOO_FAR = f"it would need a guard band over {MAX_GUARD_BAND}"


class ParityError(ValueError):
    """An engine turns a verdict around: there must be no such bundle."""


class EngineParity(BaseModel):
    """One engine's proof. Deviations are the largest from the checkpoint, on the score scales.

    `ms_per_image` goes with `batch_sizes`; engines were measured in turns, so their ratios mean something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    status: Literal["verified", "not_run"]
    reason: str = ""
    batch_sizes: tuple[BatchSize, ...]
    max_score_deviation: float | None = None
    max_heatmap_deviation: float | None = None
    flips: int | None = None
    ms_per_image: tuple[float, ...] | None = None

    @property
    def guard_band(self) -> float | None:
        """g of the contract; None while not measured."""
        return None if self.max_score_deviation is None else 2 * self.max_score_deviation


class Parity(BaseModel):
    """The content of `parity.json`; `frames` is the number of golden frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    engines: tuple[EngineParity, ...]


def prove(
    entry: EngineEntry, root: Path, geometry: Geometry, golden: Golden, survey: Survey, thresholds: Thresholds
) -> tuple[EngineParity, str | None]:
    """Runs `entry` of the unfinished bundle at `root` over all golden frames, batch sizes and positions, then
    over the survey; the proof, and why the engine must be left out, if it must.

    An engine that can't be run here is `not_run`, with the reason. Raises ParityError on a flip.
    """
    try:
        with closing(open_engine(entry, root, geometry)) as engine:
            proof = _compare(entry, engine, golden, thresholds)
            band = proof.guard_band or 0.0
            if band > MAX_GUARD_BAND:
                return proof, _TOO_FAR
            if in_float32(entry.id):
                return proof, None
            return proof, survey.objection(engine, thresholds, band, max(entry.batch_sizes))
    except (BundleError, EngineFailed) as error:
        reason = str(error)
        proof = EngineParity(id=entry.id, status="not_run", reason=reason, batch_sizes=entry.batch_sizes)
        # Half precision can be tried without a GPU; what eight bits do elsewhere, nothing here tells.
        return proof, reason if in_eight_bits(entry.id) else None


def certify(
    entries: Sequence[EngineEntry],
    root: Path,
    geometry: Geometry,
    golden: Golden,
    survey: Survey,
    thresholds: Thresholds,
) -> tuple[list[EngineParity], dict[str, str]]:
    """A proof per engine, in order of preference, and why some of them must be left out.

    Raises ParityError on a flip, but of an engine in eight bits: some networks can't be quantised.
    """
    proofs, unfit = list[EngineParity](), dict[str, str]()
    for entry in entries:
        try:
            proof, objection = prove(entry, root, geometry, golden, survey, thresholds)
        except ParityError as error:
            if not in_eight_bits(entry.id):
                raise
            unfit[entry.id] = str(error)
            continue
        proofs.append(proof)
        if objection:
            unfit[entry.id] = objection
    unseen = [proof for proof in proofs if proof.status == "not_run" and in_half_precision(proof.id)]
    if unseen:
        half, objection = _half_graph(root / HALF_GRAPH, geometry, golden, survey, thresholds)
        told = f"; its graph on the CPU: {half.max_score_deviation:.1e}"
        proofs = [
            proof.model_copy(update={"reason": proof.reason + told}) if proof in unseen else proof
            for proof in proofs
        ]
        if objection:
            unfit |= {proof.id: objection for proof in unseen}
    fit = {proof.id for proof in proofs if proof.status == "verified"} - unfit.keys()
    times = _race([entry for entry in entries if entry.id in fit], root, geometry, golden)
    proofs = [proof.model_copy(update={"ms_per_image": times.get(proof.id)}) for proof in proofs]
    return sorted(proofs, key=_preference), unfit


def _race(entries: Sequence[EngineEntry], root: Path, geometry: Geometry, golden: Golden) -> Times:
    with ExitStack() as stack:
        engines = {
            entry.id: stack.enter_context(closing(open_engine(entry, root, geometry))) for entry in entries
        }
        return race(engines, golden.frames, BATCH_SIZES, rounds=_ROUNDS)


def _half_graph(
    path: Path, geometry: Geometry, golden: Golden, survey: Survey, thresholds: Thresholds
) -> tuple[EngineParity, str | None]:
    """The half-precision graph on the CPU, frames one at a time: what can be said of a GPU's engine where
    there is no GPU, and why there must be none: some part needs more than the widest guard band."""
    entry = EngineEntry(id="onnx-fp16", file=path.name, batch_sizes=(1,))
    with closing(OnnxRuntimeEngine(path, geometry, CPU)) as engine:
        proof = _compare(entry, engine, golden, thresholds)
        too_far = (proof.guard_band or 0) > MAX_GUARD_BAND
        return proof, _TOO_FAR if too_far else survey.objection(engine, thresholds, MAX_GUARD_BAND, 1)


def _preference(proof: EngineParity) -> tuple[int, float]:
    """GPU engines that could not be measured first, since a machine that can run one has its GPU for it;
    then what was measured, fastest first; then the rest."""
    if proof.ms_per_image is None:
        return (0 if on_gpu(proof.id) else 2), 0.0
    return 1, sum(proof.ms_per_image)


def _compare(entry: EngineEntry, engine: Engine, golden: Golden, thresholds: Thresholds) -> EngineParity:
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
                    f"{entry.id} turns the verdict on {frame} around at batch size {len(window)}: "
                    f"{expected[index]:.4f} in the checkpoint, {score:.4f} in the engine"
                )
        score_deviations.append(_largest(scores - expected[window]))
        heatmap_deviations.append(_largest(thresholds.pixel.scores(heatmaps) - expected_maps[window]))
    return EngineParity(
        id=entry.id,
        status="verified",
        batch_sizes=entry.batch_sizes,
        max_score_deviation=max(score_deviations),
        max_heatmap_deviation=max(heatmap_deviations),
        flips=0,
    )


def is_flip(reference: float, score: float) -> bool:
    """Whether `score` is OK, or NG, and the checkpoint's `reference` says the opposite.

    With the widest guard band there is: a narrower one is twice the largest deviation, and no deviation
    reaches over that.
    """
    verdict, _ = judge(score, MAX_GUARD_BAND)
    return verdict == ("OK" if reference > THRESHOLD else "NG")


def _largest(deviations: NDArray[np.float64]) -> float:
    largest = float(np.abs(deviations).max())
    return largest if math.isfinite(largest) else math.inf
