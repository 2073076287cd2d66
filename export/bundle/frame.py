"""Statistics that hardly depend on defects: is a frame similar to those of calibration?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle.strict import StrictModel
from training.geometry import Size

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255  # ITU-R BT.601, of 8-bit values


@dataclass(frozen=True, slots=True)
class FrameStatistics:
    """`brightness` and `contrast`: mean and standard deviation of the luma, 0 to 1. `sharpness`: mean
    absolute value of its Laplacian, in which a few strong edges, such as a defect's, have little weight.
    `aspect`: width divided by height of the sent image."""

    brightness: float
    contrast: float
    sharpness: float
    aspect: float


class Range(StrictModel):
    """A closed interval."""

    low: float
    high: float


class FrameRanges(StrictModel):
    """The interval of each statistic in which a frame is like those of calibration."""

    brightness: Range
    contrast: Range
    sharpness: Range
    aspect: Range

    def unfamiliar(self, statistics: FrameStatistics) -> tuple[str, ...]:
        """Names of the statistics that lie outside their range."""
        return tuple(
            name
            for name in type(self).model_fields
            if not getattr(self, name).low <= getattr(statistics, name) <= getattr(self, name).high
        )


def frame_statistics(frame: NDArray[np.uint8], source_size: Size) -> FrameStatistics:
    """Statistics of a frame uint8 `[H, W, 3]` made from an image of `source_size`."""
    luma = frame @ _LUMA
    mean = luma.mean(keepdims=True)
    return FrameStatistics(
        brightness=float(mean.item()),
        contrast=float(luma.std(mean=mean)),
        sharpness=float(np.abs(_laplacian(luma)).mean()),
        aspect=source_size.width / source_size.height,
    )


def _laplacian(luma: NDArray[np.floating]) -> NDArray[np.floating]:
    """The Laplacian of the inner pixels of `luma` `[H, W]`: `[H-2, W-2]`."""
    width, flat = luma.shape[1], luma.ravel()  # shifts of a 1-D view take a third less time than 2-D windows
    sums = flat[: -2 * width] + flat[2 * width :]
    sums[1:-1] += flat[width : -width - 2]
    sums[1:-1] += flat[width + 2 : -width]
    sums -= 4 * flat[width:-width]
    return sums.reshape(-1, width)[:, 1:-1]
