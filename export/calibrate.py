"""Fits thresholds and frame-statistics ranges on good images that nothing else has used."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle.frame import FrameRanges, FrameStatistics, Range, frame_statistics
from export.bundle.manifest import Thresholds
from export.bundle.reading import require_finite
from export.bundle.scale import Scale
from export.conformal import conformal_threshold, is_promised
from training.evaluate import Scored

_PIXEL_STEP = 4
"""The map is smooth: every fourth pixel of every fourth row gives its median in a sixteenth of the memory."""

_MIN_DIFFERENCE = 1e-4
"""Between median and threshold, relative to the median or, if that is below 1, to 1. The same image's score
differs by up to about 1e-6 between batch sizes and engines, which must be far less than the guard band."""

_MIN_RATIO = 1e-6
"""Contrast and sharpness of a uniform frame are 0, which has no logarithm."""


class CalibrationError(ValueError):
    """No threshold can be fitted on these images."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result, the raw score of every image it was fitted on, and how many pixels the largest one has."""

    thresholds: Thresholds
    frame_ranges: FrameRanges
    scores: dict[Path, float]
    largest: int


def calibrate(
    images: Iterable[Scored], parts: Mapping[Path, str], max_false_reject: float, inside: NDArray[np.bool_]
) -> Calibration:
    """Fits thresholds for the error budget `max_false_reject` (0 to 1) on good, unseen `images`.

    `parts` says which part each image shows. Images of one part are no independent ones, so that it counts
    once, with its highest value. `inside` `[H, W]` are the pixels of the region of interest, on the heatmap's
    grid.

    Raises CalibrationError if they are too few, or if the threshold is not above the median but for rounding:
    they are too much alike, or one part has most of them; FrameFailed if the network's output for one is
    not finite.
    """
    by_path, pixels, statistics = dict[Path, float](), [], []
    highest, peaks = defaultdict[str, float](lambda: -math.inf), defaultdict[str, float](lambda: -math.inf)
    sampled, largest = _sampled(inside), 0
    for image in images:
        require_finite(image.heatmap, image.score, f"{image.path}: the network's output for it")
        by_path[image.path] = image.score
        part = parts[image.path]
        highest[part] = max(highest[part], image.score)
        peaks[part] = max(peaks[part], float(image.heatmap.max()))
        pixels.append(image.heatmap[sampled])
        statistics.append(frame_statistics(image.frame, image.source_size))
        largest = max(largest, math.prod(image.source_size))
    if len(highest) < 2:
        raise CalibrationError(
            f"images of {len(highest)} parts are not enough to calibrate with: give at least 100 "
            "(--calibration)"
        )
    thresholds = Thresholds(
        image=_scale(float(np.median(list(by_path.values()))), list(highest.values()), max_false_reject),
        pixel=_scale(float(np.median(np.concatenate(pixels))), list(peaks.values()), max_false_reject),
        calibration_size=len(highest),
        max_false_reject=max_false_reject,
        promised=is_promised(len(highest), max_false_reject),
    )
    return Calibration(thresholds, frame_ranges(statistics), by_path, largest)


def _sampled(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels that the median is computed from: outside a region of interest all are 0 and say nothing."""
    coarse = np.zeros_like(inside)
    coarse[::_PIXEL_STEP, ::_PIXEL_STEP] = inside[::_PIXEL_STEP, ::_PIXEL_STEP]
    return coarse if coarse.any() else inside


def frame_ranges(statistics: Sequence[FrameStatistics]) -> FrameRanges:
    """The ranges seen in calibration, widened: a usual good part never lies outside; an image with a covered
    lens, a dead lamp, overexposure or bad focus does."""

    def seen(name: str) -> NDArray[np.float64]:
        return np.array([getattr(entry, name) for entry in statistics], dtype=np.float64)

    return FrameRanges(
        brightness=_widened(seen("brightness"), fraction=0.5, least=0.1),
        contrast=_widened_ratio(seen("contrast"), fraction=0.5, least=2.0),
        sharpness=_widened_ratio(seen("sharpness"), fraction=0.5, least=1.5),
        aspect=_widened_ratio(seen("aspect"), fraction=0.0, least=1.02),
    )


def _scale(median: float, values: Sequence[float], budget: float) -> Scale:
    threshold = conformal_threshold(values, budget)
    if not threshold - median > _MIN_DIFFERENCE * max(1, abs(median)):
        raise CalibrationError(
            f"the score that the budget allows, {threshold:.6g}, is no higher than the usual one, "
            f"{median:.6g}, but for rounding: give different images of good parts, about as many of each"
        )
    return Scale(median=median, threshold=threshold)


def _widened(values: NDArray[np.float64], fraction: float, least: float) -> Range:
    """Adds this `fraction` of the span on both sides, but at least `least`."""
    margin = max(fraction * float(np.ptp(values)), least)
    return Range(low=float(values.min()) - margin, high=float(values.max()) + margin)


def _widened_ratio(values: NDArray[np.float64], fraction: float, least: float) -> Range:
    """The same on a logarithmic scale; `least` is a factor."""
    logs = _widened(np.log(np.maximum(values, _MIN_RATIO)), fraction, math.log(least))
    low = 0.0 if values.min() < _MIN_RATIO else math.exp(logs.low)
    return Range(low=low, high=math.exp(logs.high))
