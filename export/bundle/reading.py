"""Post-processing: from heatmap and raw score to a verdict. Calibration fitted the thresholds on the same
values."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import starmap
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from export.bundle.frame import FrameStatistics
from export.bundle.manifest import Manifest
from export.bundle.scale import THRESHOLD
from training.geometry import Size

Verdict = Literal["OK", "NG", "REVIEW"]
Reason = Literal["", "guard_band", "small_region", "unlike_training"]


class FrameFailed(RuntimeError):
    """The engine's output for this frame is NaN or infinite."""


def require_finite(heatmap: NDArray[np.float32], raw_score: float, whose: str) -> None:
    """Raises FrameFailed, naming `whose` output it is, if a value is NaN or infinite."""
    if not (np.isfinite(raw_score) and np.isfinite(heatmap).all()):
        raise FrameFailed(f"{whose} is NaN or infinite")


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area over the pixel threshold, in pixels of the sent image; `peak` is a score, 0 to 1."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one frame: `score` is 0 to 1, regions are sorted by falling peak."""

    verdict: Verdict
    reason: Reason
    unfamiliar: tuple[str, ...]
    """The frame statistics outside calibration's range, which make it `unlike_training`."""
    score: float
    raw_score: float
    small: bool
    """No region over the pixel threshold is as large as the product's smallest defect."""
    regions: tuple[Region, ...]


def read(
    heatmap: NDArray[np.float32],
    raw_score: float,
    statistics: FrameStatistics,
    manifest: Manifest,
    guard_band: float,
    source_size: Size,
) -> tuple[Finding, NDArray[np.float32]]:
    """The finding on one frame from its raw `heatmap` float32 `[H, W]` and `raw_score`, and its pixels'
    scores, float32 `[H, W]`, 0 to 1. `guard_band` is on that scale, too; `source_size` is the sent image's.

    Raises FrameFailed if a value is not finite.
    """
    require_finite(heatmap, raw_score, "the engine's output")
    score = manifest.thresholds.image.score(raw_score)
    pixel_scores = manifest.thresholds.pixel.scores(heatmap).astype(np.float32)
    regions = find_regions(pixel_scores, source_size)
    verdict, reason = judge(score, guard_band)
    small = manifest.min_area > max((region.area for region in regions), default=0)
    if verdict == "NG" and small:
        verdict, reason = "REVIEW", "small_region"
    unfamiliar = manifest.frame_ranges.unfamiliar(statistics)
    if unfamiliar:
        verdict, reason = "REVIEW", "unlike_training"
    if verdict == "NG" and not regions:
        regions = _region_at_peak(pixel_scores, source_size)
    finding = Finding(verdict, reason, unfamiliar, score, float(raw_score), small, regions)
    return finding, pixel_scores


def judge(score: float, guard_band: float) -> tuple[Verdict, Reason]:
    """The verdict on a score alone. Inside the guard band, another engine or batch could disagree: REVIEW."""
    if score < THRESHOLD - guard_band:
        return "OK", ""
    if score > THRESHOLD + guard_band:
        return "NG", ""
    return "REVIEW", "guard_band"


def find_regions(pixel_scores: NDArray[np.float32], source_size: Size) -> tuple[Region, ...]:
    """Connected areas (8 neighbours) of `pixel_scores` `[H, W]`, 0 to 1, that reach the threshold."""
    return _regions(pixel_scores, pixel_scores >= THRESHOLD, source_size)


def nearest_cells(shape: tuple[int, ...], source_size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The row of a map of this `shape` for each row of the sent image, and its column for each column."""
    height, width = shape
    return _nearest(height, source_size.height), _nearest(width, source_size.width)


@lru_cache(maxsize=64)
def _nearest(cells: int, pixels: int) -> NDArray[np.intp]:
    """Along one side: index of the nearest of the map's `cells` for each of the sent image's `pixels`."""
    nearest = (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
    nearest.flags.writeable = False  # shared by the cache: cameras always send the same size
    return nearest


def _region_at_peak(pixel_scores: NDArray[np.float32], source_size: Size) -> tuple[Region, ...]:
    peak = np.zeros(pixel_scores.shape, bool)
    peak.flat[np.argmax(pixel_scores)] = True
    return _regions(pixel_scores, peak, source_size)


def _regions(
    pixel_scores: NDArray[np.float32], inside: NDArray[np.bool_], source_size: Size
) -> tuple[Region, ...]:
    """Connected areas of `inside` `[H, W]`, vectorised, since a noisy map has thousands."""
    places = np.flatnonzero(inside)
    if not places.size:
        return ()
    rows, columns = np.divmod(places, inside.shape[1])
    labels, count = ndimage.label(inside[rows[0] : rows[-1] + 1], structure=np.ones((3, 3)))
    region = labels[rows - rows[0], columns] - 1
    peaks = np.zeros(count, np.float32)
    np.maximum.at(peaks, region, pixel_scores[rows, columns])
    row_of, column_of = nearest_cells(inside.shape, source_size)
    heights = np.bincount(row_of, minlength=inside.shape[0])
    widths = np.bincount(column_of, minlength=inside.shape[1])
    areas = np.bincount(region, heights[rows] * widths[columns]).astype(int)
    x, width = _spans(columns, region, count, column_of)
    y, height = _spans(rows, region, count, row_of)
    facts = x, y, width, height, np.maximum(1, areas), peaks
    order = np.argsort(-peaks, kind="stable")
    return tuple(starmap(Region, zip(*(fact[order].tolist() for fact in facts), strict=True)))


def _spans(
    cells: NDArray[np.intp], region: NDArray[np.intp], count: int, cell_of_pixel: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Along one side: first pixel and extent (at least 1) of each region in the sent image."""
    first, last = np.full(count, cells.max()), np.full(count, cells.min())
    np.minimum.at(first, region, cells)
    np.maximum.at(last, region, cells)
    start = np.minimum(np.searchsorted(cell_of_pixel, first), len(cell_of_pixel) - 1)
    return start, np.maximum(1, np.searchsorted(cell_of_pixel, last, side="right") - start)
