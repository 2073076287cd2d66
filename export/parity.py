"""One engine compared with the checkpoint: on golden frames at every batch size and position in the batch,
then on the validation frames. The float16 graph of engines that need a GPU is compared on the CPU, where
every value is rounded as there."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundle.deviations import Deviation, Reference, Run, cyclic_windows, deviations
from export.bundle.engines.engine import Engine, EngineFailed, Prediction, run_engine
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.engines.opening import open_engine
from export.bundle.engines.specs import Precision, spec_of
from export.bundle.manifest import (
    FLOAT16_GRAPH,
    MAX_GUARD_BAND,
    MAX_HEATMAP_DEVIATION,
    BatchSize,
    BundleError,
    EngineEntry,
    Thresholds,
)
from export.bundle.reading import judge
from export.bundle.scale import THRESHOLD
from export.bundle.strict import StrictModel
from export.float16 import simulate_float16
from export.golden import Golden
from training.geometry import Geometry


class ParityError(ValueError):
    """An engine reverses a verdict of the checkpoint (OK and NG), so no bundle may be made."""


class EngineParity(StrictModel):
    """The comparison of one engine with the checkpoint. Deviations are the largest, on the 0 to 1 scales: of
    scores on golden frames; of heatmaps also on the validation frames, unless the engine computes in float32.

    `guard_band`: half the width of the interval around the threshold in which the verdict is REVIEW: twice
    the largest score deviation on golden frames, or the largest on the validation frames if that is more. Of
    a float16 engine that was not run, what its graph needs on the CPU.
    `flips`: reversed verdicts: 0, or None if the engine was not run. An engine with a flip gets no entry.
    `ms_per_image`: one per batch size; the engines took turns, so their ratios are meaningful.
    """

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
    def rejection(self) -> str | None:
        """The reason why the engine must be left out; None if it deviates little enough."""
        if (self.guard_band or 0) > MAX_GUARD_BAND:
            return f"it would need a guard band wider than {MAX_GUARD_BAND}"
        if (self.max_heatmap_deviation or 0) > MAX_HEATMAP_DEVIATION:
            return f"its heatmap deviates by more than {MAX_HEATMAP_DEVIATION}"
        return None


class Parity(StrictModel):
    """The content of `parity.json`; `frames` is the number of golden frames."""

    frames: int
    engines: tuple[EngineParity, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The predictions that engines of the unfinished bundle at `root` have to reproduce."""

    root: Path
    geometry: Geometry
    golden: Golden
    validation: Reference
    thresholds: Thresholds

    def open(self, entry: EngineEntry) -> Engine:
        """Raises BundleError if this machine can't run it."""
        return open_engine(entry, self.root, self.geometry)


def check_parity(entry: EngineEntry, baseline: Baseline) -> EngineParity:
    """Runs `entry` on all golden frames, batch sizes and positions, then on the validation frames.

    The status of an engine that can't be opened here is `not_run`, with the reason. Raises ParityError on a
    flip, and EngineFailed if it fails or, of bfloat16 or int8, can't be opened.
    """
    precision = spec_of(entry.id).precision
    try:
        engine = baseline.open(entry)
    except BundleError as error:
        if precision in ("bf16", "int8"):
            # A float16 graph is checked on the CPU instead. For bfloat16 and int8 there is no such check, and
            # the guard band they need would stay unknown.
            raise EngineFailed(str(error)) from error
        return EngineParity(id=entry.id, status="not_run", reason=str(error), batch_sizes=entry.batch_sizes)
    with closing(engine):
        return _compared(entry.id, precision, entry.batch_sizes, engine, baseline)


def check_float16_graph(baseline: Baseline) -> EngineParity:
    """The float16 graph on the CPU, rounded as on a GPU, in place of the engines that need one.

    Raises ParityError, EngineFailed, and BundleError if it can't be opened.
    """
    with TemporaryDirectory(prefix="drd-half-") as folder:
        path = Path(folder) / FLOAT16_GRAPH
        onnx.save(simulate_float16(onnx.load(baseline.root / FLOAT16_GRAPH)), path)
        with closing(OnnxRuntimeEngine(path, baseline.geometry, CPU)) as engine:
            return _compared(FLOAT16_GRAPH, "fp16", (1,), engine, baseline)


def _compared(
    name: str, precision: Precision, batch_sizes: tuple[BatchSize, ...], engine: Engine, baseline: Baseline
) -> EngineParity:
    """`name` is an engine's id, or what the messages call it."""
    run = partial(_run, engine, precision)
    seen = list(_on_golden_frames(name, batch_sizes, run, baseline))
    score = max(one.of_score for one in seen)
    parity = EngineParity(
        id=name,
        status="verified",
        batch_sizes=batch_sizes,
        max_score_deviation=score,
        max_heatmap_deviation=max(one.of_heatmap for one in seen),
        guard_band=2 * score,
        flips=0,
    )
    if parity.rejection or precision == "f32":
        return parity
    windows = cyclic_windows(len(baseline.validation.frames), (max(batch_sizes),))
    seen += deviations(run, baseline.validation, baseline.thresholds, windows)
    heatmap, elsewhere = max(one.of_heatmap for one in seen), max(one.of_score for one in seen)
    return parity.model_copy(
        update={"max_heatmap_deviation": heatmap, "guard_band": max(2 * score, elsewhere)}
    )


def _on_golden_frames(
    name: str, batch_sizes: tuple[BatchSize, ...], run: Run, baseline: Baseline
) -> Iterator[Deviation]:
    """Raises ParityError on a flip."""
    golden = baseline.golden
    windows = list(cyclic_windows(len(golden.frames), batch_sizes, every=True))
    progress = tqdm(windows, desc=f"parity of {name}", unit="batch", leave=False, disable=None)
    for seen in deviations(run, golden, baseline.thresholds, progress):
        if is_flip(seen.expected, seen.score):
            frame = f"{golden.entries[seen.index].file} ({golden.entries[seen.index].source})"
            raise ParityError(
                f"{name} reverses the verdict on {frame} at batch size {seen.batch_size}: "
                f"the checkpoint scores {seen.expected:.4f}, the engine {seen.score:.4f}"
            )
        yield seen


def _run(engine: Engine, precision: Precision, frames: NDArray[np.uint8]) -> Prediction:
    """Raises EngineFailed also if a value is not finite."""
    prediction = run_engine(engine, frames)
    if not prediction.is_finite:
        why = ", since values in it overflow float16" if precision == "fp16" else ""
        raise EngineFailed(f"its output is NaN or infinite{why}")
    return prediction


def is_flip(reference: float, score: float) -> bool:
    """Whether the verdict on `score` is OK and the checkpoint's, on `reference`, NG, or the reverse.

    Uses MAX_GUARD_BAND. An engine's own band is twice its largest deviation, so no score can cross it.
    """
    verdict, _ = judge(score, MAX_GUARD_BAND)
    return verdict == ("OK" if reference > THRESHOLD else "NG")
