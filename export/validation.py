"""More frames than the golden ones, for export only: a guard band has to cover the deviations there, too.

Golden frames show how much reduced precision changes a score, but they are few (up to 16). Many more are
needed to see the worst case, above all defective parts: their activations lie outside the quantiser's ranges.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.bundle.deviations import Reference
from export.bundle.manifest import GOLDEN_STEP
from export.bundle.reading import require_finite
from export.golden import pseudo_abnormal, spread
from training.evaluate import BATCH, Predict
from training.geometry import Geometry
from training.images import read_frames

_MAX_EACH = 48
"""Frames of each kind."""


def validation_frames(
    good: Sequence[Path], defective: Sequence[Path], geometry: Geometry, predict: Predict
) -> Reference:
    """Up to 48 `good` images, up to 48 `defective` ones, and a pseudo-abnormal version of each of the first.

    `predict` is the checkpoint's; of its heatmaps, every fourth pixel of every fourth row is kept. Raises
    FrameFailed if its output for one is not finite.
    """
    intact = spread(good, _MAX_EACH)
    paths = [*intact, *spread(defective, _MAX_EACH)]
    frames = read_frames(paths, geometry)
    damaged = pseudo_abnormal(frames[: len(intact)], "mix")  # "mix": damage of many shapes, strong and faint
    frames = np.concatenate([frames, damaged])
    heatmaps, scores = [], []
    for start in range(0, len(frames), BATCH):
        heatmap, score = predict(frames[start : start + BATCH])
        heatmaps.append(heatmap[:, ::GOLDEN_STEP, ::GOLDEN_STEP].copy())  # the rest can be freed
        scores.append(score)
    reference = Reference(frames, np.concatenate(scores), np.concatenate(heatmaps))
    for path, heatmap, score in zip([*paths, *intact], reference.heatmaps, reference.scores, strict=True):
        require_finite(heatmap, score, f"{path}: the network's output for it, or for a damaged version,")
    return reference
