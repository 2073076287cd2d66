"""One engine compared with the checkpoint: on golden frames at every batch size and position in the batch,
then on the survey. The float16 graph of engines that need a GPU is compared on the CPU, where every value is
rounded as there."""

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from export.bundle.engines.choice import open_engine
from export.bundle.engines.engine import Answer, Engine, EngineFailed, ask
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.manifest import (
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
from export.engines import in_float16, in_float32
from export.golden import Golden
from export.half import rounding
from export.survey import Survey
from training.geometry import Geometry

_TOO_FAR = f"it would need a guard band wider than {MAX_GUARD_BAND}"
_MAP_TOO_FAR = f"its heatmap deviates by more than {MAX_HEATMAP_DEVIATION}"


class ParityError(ValueError):
    """An engine reverses a verdict of the checkpoint (OK and NG), so no bundle may be made."""


class EngineParity(BaseModel):
    """The comparison of one engine with the checkpoint. Deviations are the largest, on the 0 to 1 scales.

    `guard_band`: half the width of the interval around the threshold in which the verdict is REVIEW: twice
    the largest score deviation on golden frames, or the largest of the survey if that is more. Of a float16
    engine that was not run, what its graph needs on the CPU.
    `flips`: reversed verdicts: 0, or None if the engine was not run. An engine with a flip gets no entry.
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

    The status of an engine that can't be opened here is `not_run`, with the reason. Raises ParityError on a
    flip, and EngineFailed if the engine opens, but fails.
    """
    try:
        engine = trial.open(entry)
    except BundleError as error:
        reason = str(error)
        proof = EngineParity(id=entry.id, status="not_run", reason=reason, batch_sizes=entry.batch_sizes)
        # A float16 graph is checked on the CPU instead. For bfloat16 and int8 there is no such check, and the
        # guard band they need would stay unknown.
        return proof, None if in_float16(entry.id) or in_float32(entry.id) else reason
    with closing(engine):
        proof = _compare(entry, engine, trial)
        if proof.too_far or in_float32(entry.id):
            return proof, proof.too_far
        return _surveyed(proof, engine, trial)


def prove_half_graph(trial: Trial) -> tuple[float, str | None]:
    """Checks the float16 graph on the CPU, rounded as on a GPU, in place of the engines that need one.

    Returns the guard band it needs there, on golden frames and survey, and the reason if these engines must
    be left out.
    """
    entry = EngineEntry(id="onnx-fp16", file=HALF_GRAPH, batch_sizes=(1,))
    with TemporaryDirectory(prefix="drd-half-") as folder:
        path = Path(folder) / HALF_GRAPH
        onnx.save(rounding(onnx.load(trial.root / HALF_GRAPH)), path)
        try:
            with closing(OnnxRuntimeEngine(path, trial.geometry, CPU)) as engine:
                proof, objection = _surveyed(_compare(entry, engine, trial), engine, trial)
        except (BundleError, ParityError, EngineFailed) as error:
            return math.inf, str(error)
    return proof.guard_band or 0.0, objection


def _surveyed(proof: EngineParity, engine: Engine, trial: Trial) -> tuple[EngineParity, str | None]:
    """`proof` with a guard band that covers the survey's deviations, too; the reason if the engine must be
    left out."""
    frames, scale = trial.survey.frames, trial.thresholds.image
    expected, band = scale.scores(trial.survey.scores), proof.guard_band or 0.0
    for window in cyclic_windows(len(frames), (max(proof.batch_sizes),)):
        _, scores = _answer(proof.id, engine, frames[window])
        band = max(band, _largest(scale.scores(scores) - expected[window]))
    wide = proof.model_copy(update={"guard_band": band})
    return wide, wide.too_far


def _compare(entry: EngineEntry, engine: Engine, trial: Trial) -> EngineParity:
    golden, thresholds = trial.golden, trial.thresholds
    expected = thresholds.image.scores(golden.scores)
    expected_maps = thresholds.pixel.scores(golden.heatmaps)
    score_deviations, heatmap_deviations = list[float](), list[float]()
    windows = list(cyclic_windows(len(golden.frames), entry.batch_sizes, every=True))
    for window in tqdm(windows, desc=f"parity of {entry.id}", unit="batch", leave=False, disable=None):
        heatmaps, raw_scores = _answer(entry.id, engine, golden.frames[window])
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


def _answer(name: str, engine: Engine, frames: NDArray[np.uint8]) -> Answer:
    """Raises EngineFailed also if a value is not finite: the service could not judge the frame."""
    heatmaps, scores = ask(engine, frames)
    if not (np.isfinite(heatmaps).all() and np.isfinite(scores).all()):
        why = ", since values in it overflow float16" if in_float16(name) else ""
        raise EngineFailed(f"its output is NaN or infinite{why}")
    return heatmaps, scores


def is_flip(reference: float, score: float) -> bool:
    """Whether the verdict on `score` is OK and the checkpoint's, on `reference`, NG, or the reverse.

    Uses MAX_GUARD_BAND. An engine's own band is twice its largest deviation, so no score can cross it.
    """
    verdict, _ = judge(score, MAX_GUARD_BAND)
    return verdict == ("OK" if reference > THRESHOLD else "NG")


def _largest(deviations: NDArray[np.float64]) -> float:
    largest = float(np.abs(deviations).max())
    return largest if math.isfinite(largest) else math.inf
