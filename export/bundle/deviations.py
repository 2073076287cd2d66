"""How far an engine's predictions are from the checkpoint's."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.engine import Prediction
from export.bundle.manifest import Thresholds

Run = Callable[[NDArray[np.uint8]], Prediction]
"""Runs an engine on frames uint8 `[N, H, W, 3]`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`frames` uint8 `[F, H, W, 3]`, and the checkpoint's raw `scores` `[F]` and `heatmaps` `[F, h, w]` of
    them: of every pixel, or of every n-th pixel of every n-th row."""

    frames: NDArray[np.uint8]
    scores: NDArray[np.floating]
    heatmaps: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of frame number `index` in a batch of `batch_size`, on the 0 to 1 scales: the `expected` score
    and the engine's, and the largest deviation `of_heatmap`. NaN where the engine's output is."""

    index: int
    batch_size: int
    expected: float
    score: float
    of_heatmap: float

    @property
    def of_score(self) -> float:
        return abs(self.score - self.expected)


def deviations(
    run: Run, reference: Reference, thresholds: Thresholds, windows: Iterable[list[int]]
) -> Iterator[Deviation]:
    """One for each frame of each of the `windows`, batches of indices. Raises what `run` does."""
    expected = thresholds.image.scores(reference.scores)
    expected_maps = thresholds.pixel.scores(reference.heatmaps)
    step = reference.frames.shape[1] // reference.heatmaps.shape[1]
    for window in windows:
        prediction = run(reference.frames[window])
        scores = thresholds.image.scores(prediction.score)
        maps = thresholds.pixel.scores(prediction.heatmap[:, ::step, ::step])
        for index, score, pixels in zip(window, scores, maps, strict=True):
            off = float(np.abs(pixels - expected_maps[index]).max())
            yield Deviation(index, len(window), float(expected[index]), float(score), off)


def cyclic_windows(count: int, batch_sizes: tuple[int, ...], *, every: bool = False) -> Iterator[list[int]]:
    """Batches of indices, such that each of `count` frames appears at every batch size.

    With `every`, also at every position in the batch.
    """
    for size in batch_sizes:
        for start in range(0, count, 1 if every else size):
            yield [(start + offset) % count for offset in range(size)]
