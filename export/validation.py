"""A check on more frames than the golden ones: a guard band has to cover the deviations there, too.

Golden frames show how much reduced precision changes a score, but they are few (up to 16). Many more are
needed to see the worst case, above all defective parts: their activations lie outside the quantiser's ranges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.golden import pseudo_abnormal, spread
from training.evaluate import BATCH, Predict, read_frames
from training.geometry import Geometry

_MAX_EACH = 48
"""Frames of each kind."""


@dataclass(frozen=True, slots=True)
class ValidationFrames:
    """`frames` uint8 [N, H, W, 3], and the checkpoint's raw float32 `scores` [N] of them."""

    frames: NDArray[np.uint8]
    scores: NDArray[np.float32]

    @staticmethod
    def take(
        good: Sequence[Path], defective: Sequence[Path], geometry: Geometry, predict: Predict
    ) -> "ValidationFrames":
        """Up to 48 `good` images, a pseudo-abnormal version of each, and up to 48 `defective` ones."""
        intact = read_frames(spread(good, _MAX_EACH), geometry)
        frames = [intact, pseudo_abnormal(intact, "mix")]  # "mix": damage of many shapes, strong and faint
        if defective:
            frames.append(read_frames(spread(defective, _MAX_EACH), geometry))
        every = np.concatenate(frames)
        batches = (every[start : start + BATCH] for start in range(0, len(every), BATCH))
        return ValidationFrames(every, np.concatenate([predict(batch)[1] for batch in batches]))
