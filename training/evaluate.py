"""Scores images with a network, and computes the figures of a labelled test set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets import Sample
from training.geometry import Geometry, Size, read_rgb
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


def read_frames(paths: Iterable[Path], geometry: Geometry) -> NDArray[np.uint8]:
    """The frames of images, `[N, H, W, 3]`. Raises UnreadableImage naming the file."""
    return np.stack([geometry.apply(read_rgb(path)) for path in paths])


def read_sample(sample: Sample, geometry: Geometry) -> NDArray[np.uint8]:
    """Its frame `[H, W, 3]`. Raises UnreadableImage, or DatasetError for a mask that is not its image's; both
    name the file."""
    rgb = read_rgb(sample.path)
    if sample.mask is not None:
        read_mask(sample.mask, geometry, Size.of(rgb))
    return geometry.apply(rgb)


def score_images(
    predict: Predict,
    paths: Sequence[Path],
    geometry: Geometry,
    label: str = "scoring",
    batch_sizes: Sequence[int] = range(1, BATCH + 1),
) -> Iterator[Scored]:
    """Scores images in order, with a progress bar titled `label`; one batch in memory at a time, of the
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


class Evaluator:
    """Takes the results of a labelled test set one by one, then gives its figures.

    Pixel figures come from the good images and those defective ones that have a mask with at least a pixel at
    the network's size; heatmaps are kept only where there are masks.
    """

    def __init__(self, samples: Sequence[Sample], geometry: Geometry) -> None:
        self._samples, self._geometry = tuple(samples), geometry
        self._masked = any(sample.mask is not None for sample in samples)
        size = (sum(map(self._has_pixels, samples)), geometry.height, geometry.width)
        self._heatmaps, self._masks = np.empty(size, np.float32), np.zeros(size, np.bool_)
        self._scores = list[float]()
        self._kept = self._lost = 0

    def add(self, scored: Scored) -> None:
        """The result of the next sample. Raises DatasetError for a mask that is not its image's."""
        sample = self._samples[len(self._scores)]
        self._scores.append(scored.score)
        if not self._has_pixels(sample):
            return
        if sample.mask is not None:
            mask = read_mask(sample.mask, self._geometry, scored.source_size)
            if not mask.any():  # its defect would count as good pixels
                self._lost += 1
                return
            self._masks[self._kept] = mask
        self._heatmaps[self._kept] = scored.heatmap
        self._kept += 1

    def result(self) -> ScoredSet:
        """When every sample has its result."""
        defective = np.array([sample.defective for sample in self._samples])
        scores = np.array(self._scores)
        figures = quality(scores, defective, self._heatmaps[: self._kept], self._masks[: self._kept])
        return ScoredSet(self._samples, scores, replace(figures, n_masks_lost=self._lost or None))

    def _has_pixels(self, sample: Sample) -> bool:
        return self._masked and (sample.mask is not None or not sample.defective)


def evaluate(samples: Sequence[Sample], results: Iterable[Scored], geometry: Geometry) -> ScoredSet:
    """Figures of `results`, one per sample, in order. Raises what `Evaluator.add` does."""
    evaluator = Evaluator(samples, geometry)
    for _, scored in zip(samples, results, strict=True):
        evaluator.add(scored)
    return evaluator.result()
