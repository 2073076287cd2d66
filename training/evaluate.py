"""Scores pictures with a network, and computes the figures of a labelled test set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets import Sample, read_mask
from training.geometry import Geometry, read_rgb
from training.metrics import Quality, quality

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Frames uint8 `[N, H, W, 3]` → heatmaps float32 `[N, H, W]`, raw scores float32 `[N]`."""

BATCH = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """A picture's `frame` uint8 `[H, W, 3]`, and the raw `heatmap` float32 `[H, W]` and `score` of it.
    `source_size` (width, height) is the picture's, before it was resized."""

    path: Path
    source_size: tuple[int, int]
    frame: NDArray[np.uint8]
    heatmap: NDArray[np.float32]
    score: float


def read_frames(paths: Iterable[Path], geometry: Geometry) -> NDArray[np.uint8]:
    """Pictures at the network's size, `[N, H, W, 3]`. Raises UnreadableImage naming the file."""
    return np.stack([geometry.apply(read_rgb(path)) for path in paths])


def score_images(
    predict: Predict,
    paths: Sequence[Path],
    geometry: Geometry,
    label: str = "scoring",
    batch_sizes: Sequence[int] = range(1, BATCH + 1),
) -> Iterator[Scored]:
    """Scores pictures in order, with a progress bar titled `label`; one batch in memory at a time, of the
    largest of `batch_sizes` that the rest fills. 1 is among them. Raises UnreadableImage naming the file."""
    rest = list(paths)
    with tqdm(total=len(rest), desc=label, unit="image", leave=False, disable=None) as progress:
        while rest:
            size = max(size for size in batch_sizes if size <= len(rest))
            batch, rest = rest[:size], rest[size:]
            sizes, frames = zip(*(_resized(path, geometry) for path in batch), strict=True)
            heatmaps, scores = predict(np.stack(frames))
            for each in zip(batch, sizes, frames, heatmaps, scores.tolist(), strict=True):
                yield Scored(*each)
            progress.update(size)


def _resized(path: Path, geometry: Geometry) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    """A picture's width and height, and its frame; a batch of whole pictures may be gigabytes."""
    rgb = read_rgb(path)
    return (rgb.shape[1], rgb.shape[0]), geometry.apply(rgb)


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """Raw scores of a labelled test set, in the order of its samples, and the figures they make."""

    samples: tuple[Sample, ...]
    scores: NDArray[np.float64]
    quality: Quality


def evaluate(samples: Sequence[Sample], results: Iterable[Scored], geometry: Geometry) -> ScoredSet:
    """Figures of `results`, one per sample, in order.

    Pixel figures come from the good images and those defective ones that have a mask with at least a pixel at
    the network's size; heatmaps are kept only where there are masks. Raises DatasetError for a mask that is
    not its picture's.
    """
    masked = any(sample.mask is not None for sample in samples)
    measured = [masked and (sample.mask is not None or not sample.defective) for sample in samples]
    heatmaps = np.empty((sum(measured), geometry.height, geometry.width), np.float32)
    masks = np.zeros(heatmaps.shape, np.bool_)
    scores, row, lost = [], 0, 0
    for sample, has_pixels, scored in zip(samples, measured, results, strict=True):
        scores.append(scored.score)
        if has_pixels:
            heatmaps[row] = scored.heatmap
            if sample.mask is not None:
                width, height = scored.source_size
                masks[row] = read_mask(sample.mask, geometry, (height, width))
                if not masks[row].any():  # its defect would count as good pixels
                    lost += 1
                    continue
            row += 1
    defective = np.array([sample.defective for sample in samples])
    raw = np.array(scores)
    figures = quality(raw, defective, heatmaps[:row], masks[:row])
    return ScoredSet(tuple(samples), raw, replace(figures, n_masks_lost=lost or None))
