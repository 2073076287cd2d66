"""More frames than the golden ones: on them, too, no engine may deviate by more than its guard band.

A dozen golden frames say how far fewer bits move a score; that no other part moves it farther is to be seen
on many, defective ones above all, whose activations are unlike any that eight bits were chosen for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.engine import Engine, EngineFailed, ask
from export.bundle.manifest import Thresholds
from export.bundle.predict import cyclic_windows
from export.golden import pseudo_abnormal, spread
from training.evaluate import BATCH, Predict, read_frames
from training.geometry import Geometry

_EACH = 48


@dataclass(frozen=True, slots=True)
class Survey:
    """`frames` uint8 [n, H, W, 3], and the raw `scores` [n] that the checkpoint gives them in float32."""

    frames: NDArray[np.uint8]
    scores: NDArray[np.float32]

    @staticmethod
    def take(
        good: Sequence[Path], defective: Sequence[Path], geometry: Geometry, predict: Predict
    ) -> "Survey":
        """Up to 48 `good` pictures, a pseudo-abnormal version of each, and as many `defective` ones."""
        intact = read_frames(spread(good, _EACH), geometry)
        frames = [intact, pseudo_abnormal(intact, "mix")]
        if defective:
            frames.append(read_frames(spread(defective, _EACH), geometry))
        every = np.concatenate(frames)
        batches = (every[start : start + BATCH] for start in range(0, len(every), BATCH))
        return Survey(every, np.concatenate([predict(batch)[1] for batch in batches]))

    def objection(self, engine: Engine, thresholds: Thresholds, guard_band: float, batch: int) -> str | None:
        """Why an engine that needs `guard_band` by the golden frames must be left out, if it must: it strays,
        or fails, asked in batches of `batch`."""
        expected, largest = thresholds.image.scores(self.scores), 0.0
        for window in cyclic_windows(len(self.frames), (batch,)):
            try:
                _, scores = ask(engine, self.frames[window])
            except EngineFailed as error:
                return str(error)
            deviation = thresholds.image.scores(scores) - expected[window]
            largest = max(largest, float(np.nan_to_num(np.abs(deviation), nan=np.inf).max()))
        if largest <= guard_band:
            return None
        return (
            f"its score is up to {largest:.3f} off on {len(self.frames)} more frames, "
            f"outside the guard band of {guard_band:.3f}"
        )
