"""From heatmap and raw score to a verdict: thresholds were fitted on exactly what is thresholded here."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from export.bundle.frame import FrameStatistics
from export.bundle.manifest import Manifest
from export.bundle.scale import THRESHOLD

Verdict = Literal["OK", "NG", "REVIEW"]
Reason = Literal["", "guard_band", "small_region", "unlike_training"]
Size = tuple[int, int]
"""Width and height."""


class FrameFailed(RuntimeError):
    """The engine's answer to this frame is not a number."""


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area over the pixel threshold, in pixels of the sent image; `peak` is a score."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What one frame says. Regions come by falling peak."""

    verdict: Verdict
    reason: Reason
    score: float
    raw_score: float
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Reading(Finding):
    """A finding and what it rests on: `pixel_scores` is float32 [H, W], 0 to 1."""

    pixel_scores: NDArray[np.float32]


def read(
    heatmap: NDArray[np.float32],
    raw_score: float,
    statistics: FrameStatistics,
    manifest: Manifest,
    guard_band: float,
    source_size: Size,
) -> Reading:
    """Reads one frame's raw `heatmap` [H, W] and `raw_score`; `source_size` is that of the sent image.

    Raises FrameFailed when any of it is not finite.
    """
    if not (np.isfinite(raw_score) and np.isfinite(heatmap).all()):
        raise FrameFailed("the engine's answer is not finite")
    score = manifest.thresholds.image.score(raw_score)
    pixel_scores = manifest.thresholds.pixel.scores(heatmap).astype(np.float32)
    regions = find_regions(pixel_scores, source_size)
    verdict, reason = judge(score, guard_band)
    if verdict == "NG" and manifest.min_area > max((region.area for region in regions), default=0):
        verdict, reason = "REVIEW", "small_region"
    if manifest.frame_ranges.unfamiliar(statistics):
        verdict, reason = "REVIEW", "unlike_training"
    if verdict == "NG" and not regions:
        regions = (_region_at_peak(pixel_scores, source_size),)
    return Reading(verdict, reason, score, float(raw_score), regions, pixel_scores)


def judge(score: float, guard_band: float) -> tuple[Verdict, Reason]:
    """The verdict on a score alone: certain only where engines and batches can't disagree."""
    if score < THRESHOLD - guard_band:
        return "OK", ""
    if score > THRESHOLD + guard_band:
        return "NG", ""
    return "REVIEW", "guard_band"


def find_regions(pixel_scores: NDArray[np.float32], source_size: Size) -> tuple[Region, ...]:
    """Connected areas, diagonals included, of `pixel_scores` [H, W] at or over the threshold."""
    over = pixel_scores >= THRESHOLD
    if not over.any():
        return ()
    labels, _ = ndimage.label(over, structure=np.ones((3, 3)))
    rows, columns = _source_pixels(pixel_scores.shape, source_size)
    regions = list[Region]()
    for label, box in enumerate(
        ndimage.find_objects(labels), 1
    ):  # within its box only: maps are mostly empty
        inside = labels[box] == label
        area = rows[box[0]] @ inside @ columns[box[1]]
        peak = pixel_scores[box][inside].max()
        regions.append(_region(box, int(area), float(peak), pixel_scores.shape, source_size))
    return tuple(sorted(regions, key=lambda region: -region.peak))


@lru_cache(maxsize=64)
def cell_of_source(cells: int, pixels: int) -> NDArray[np.intp]:
    """For each of `pixels` along a side of the sent image, the nearest of the map's `cells`; int [pixels]."""
    nearest = (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
    nearest.flags.writeable = False  # shared: cameras send the same size again and again
    return nearest


def _region_at_peak(pixel_scores: NDArray[np.float32], source_size: Size) -> Region:
    row, column = (int(i) for i in np.unravel_index(np.argmax(pixel_scores), pixel_scores.shape))
    rows, columns = _source_pixels(pixel_scores.shape, source_size)
    box = slice(row, row + 1), slice(column, column + 1)
    return _region(
        box,
        int(rows[row] * columns[column]),
        float(pixel_scores[row, column]),
        pixel_scores.shape,
        source_size,
    )


def _region(
    box: tuple[slice, ...], area: int, peak: float, cells: tuple[int, ...], source_size: Size
) -> Region:
    (y, height), (x, width) = (
        _span(side, count, pixels)
        for side, count, pixels in zip(box, cells, reversed(source_size), strict=True)
    )
    return Region(x, y, width, height, max(1, area), peak)


def _span(side: slice, cells: int, pixels: int) -> tuple[int, int]:
    """First pixel and extent of the cells `side` in the sent image, at least one pixel."""
    first, end = np.searchsorted(cell_of_source(cells, pixels), [side.start, side.stop])
    first = min(int(first), pixels - 1)
    return first, max(1, int(end) - first)


def _source_pixels(cells: tuple[int, ...], source_size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """How many rows and columns of the sent image each row [H] and column [W] of the map stands for."""
    width, height = source_size
    rows = np.bincount(cell_of_source(cells[0], height), minlength=cells[0])
    return rows, np.bincount(cell_of_source(cells[1], width), minlength=cells[1])
