"""Scores images with a network, and computes the figures of a labelled test set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets import DatasetError, Sample
from training.geometry import Geometry, Size, UnreadableImage
from training.images import read_rgb
from training.masks import read_mask
from training.metrics import Quality, quality

Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Frames uint8 `[N, H, W, 3]` → heatmaps float32 `[N, H, W]`, raw scores float32 `[N]`."""

BATCH = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """An image's `frame` uint8 `[H, W, 3]`, and the raw `heatmap` float32 `[H, W]` and `score` of it.
    `source_size` is the image's, before it was resized."""

    path: Path
    source_size: Size
    frame: NDArray[np.uint8]
    heatmap: NDArray[np.float32]
    score: float


def read_samples(
    samples: Iterable[Sample], geometry: Geometry, unreadable: Callable[[Exception], None]
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """The readable samples, each with its frame `[H, W, 3]`. `unreadable` is told of each other one, in an
    error that names the file: its image can't be read, or its mask, or that is not its image's."""
    for sample in samples:
        try:
            size, frame = _resized(sample.path, geometry)
            if sample.mask is not None:
                read_mask(sample.mask, geometry, size)
        except (UnreadableImage, DatasetError) as error:
            unreadable(error)
        else:
            yield sample, frame


def score_images(
    predict: Predict,
    paths: Sequence[Path],
    geometry: Geometry,
    label: str = "scoring",
    batch_sizes: Sequence[int] = range(1, BATCH + 1),
) -> Iterator[Scored]:
    """Scores images in order, with a progress bar titled `label`; one batch in memory at a time, of the
    largest size in `batch_sizes` (which contains 1) that the rest fills. Raises UnreadableImage naming the
    file."""
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


def _resized(path: Path, geometry: Geometry) -> tuple[Size, NDArray[np.uint8]]:
    """An image's size, and its frame; a batch of whole images may be gigabytes."""
    rgb = read_rgb(path)
    return Size.of(rgb), geometry.apply(rgb)


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """Raw scores of a labelled test set, in the order of its samples, and the figures they make."""

    samples: tuple[Sample, ...]
    scores: NDArray[np.float64]
    quality: Quality


def evaluate(samples: Sequence[Sample], results: Iterable[Scored], geometry: Geometry) -> ScoredSet:
    """Figures of `results`, one per sample, in order. Raises DatasetError for a mask that is not its image's.

    Pixel figures come from the good images and those defective ones that have a mask with at least a pixel at
    the network's size; heatmaps are kept only where there are masks.
    """
    masked = any(sample.mask is not None for sample in samples)
    has_pixels = [masked and (sample.mask is not None or not sample.defective) for sample in samples]
    size = (sum(has_pixels), geometry.height, geometry.width)
    heatmaps, masks = np.empty(size, np.float32), np.zeros(size, np.bool_)
    scores, kept, lost = list[float](), 0, 0
    for sample, wanted, scored in zip(samples, has_pixels, results, strict=True):
        scores.append(scored.score)
        if not wanted:
            continue
        if sample.mask is not None:
            mask = read_mask(sample.mask, geometry, scored.source_size)
            if not mask.any():  # its defect would count as good pixels
                lost += 1
                continue
            masks[kept] = mask
        heatmaps[kept] = scored.heatmap
        kept += 1
    defective = np.array([sample.defective for sample in samples])
    figures = quality(np.array(scores), defective, heatmaps[:kept], masks[:kept])
    return ScoredSet(tuple(samples), np.array(scores), replace(figures, n_masks_lost=lost or None))
