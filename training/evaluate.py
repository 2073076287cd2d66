"""Scores pictures with a network, and computes the figures of a labelled test set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets import Sample, read_mask
from training.geometry import Geometry, read_rgb, upright_shape
from training.metrics import Quality, quality

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Frames uint8 `[N, H, W, 3]` → heatmaps float32 `[N, H, W]`, raw scores float32 `[N]`."""

BATCH = 8


def read_frames(paths: Iterable[Path], geometry: Geometry) -> NDArray[np.uint8]:
    """Pictures at the network's size, `[N, H, W, 3]`. Raises UnreadableImage naming the file."""
    return np.stack([geometry.apply(read_rgb(path)) for path in paths])


def score_images(
    predict: Predict, paths: Sequence[Path], geometry: Geometry
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Heatmap `[H, W]` and raw score of each picture, in order; one batch in memory at a time."""
    for start in range(0, len(paths), BATCH):
        heatmaps, scores = predict(read_frames(paths[start : start + BATCH], geometry))
        for heatmap, score in zip(heatmaps, scores, strict=True):
            yield heatmap, float(score)


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """Raw scores of a labelled test set, in the order of its samples, and the figures they make."""

    samples: tuple[Sample, ...]
    scores: NDArray[np.float64]
    quality: Quality


def evaluate(
    samples: Sequence[Sample], results: Iterable[tuple[NDArray[np.float32], float]], geometry: Geometry
) -> ScoredSet:
    """Figures of `results` (heatmap and raw score per sample, in order).

    Pixel figures come from the good images and those defective ones that have a mask with at least a pixel at
    the network's size; heatmaps are kept only where there are masks. Raises DatasetError for a mask that is
    not its picture's.
    """
    masked = any(sample.mask is not None for sample in samples)
    measured = [masked and (sample.mask is not None or not sample.defective) for sample in samples]
    heatmaps = np.empty((sum(measured), geometry.height, geometry.width), np.float32)
    masks = np.zeros(heatmaps.shape, np.bool_)
    scores, row, lost = [], 0, 0
    for sample, has_pixels, (heatmap, score) in zip(samples, measured, results, strict=True):
        scores.append(score)
        if has_pixels:
            heatmaps[row] = heatmap
            if sample.mask is not None:
                masks[row] = read_mask(sample.mask, geometry, upright_shape(sample.path))
                if not masks[row].any():  # its defect would count as good pixels
                    lost += 1
                    continue
            row += 1
    defective = np.array([sample.defective for sample in samples])
    raw = np.array(scores)
    figures = quality(raw, defective, heatmaps[:row], masks[:row])
    return ScoredSet(tuple(samples), raw, replace(figures, n_masks_lost=lost or None))
