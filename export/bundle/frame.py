"""What a frame looks like apart from defects: is it a picture of the kind calibration saw?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255  # ITU-R BT.601, of 8-bit values


@dataclass(frozen=True, slots=True)
class FrameStatistics:
    """`brightness` and `contrast` are mean and standard deviation of the luma, 0 to 1; `sharpness` is the
    mean absolute value of its Laplacian (a few strong edges, such as a defect's, count little); `aspect` is
    width over height of the picture as it was sent."""

    brightness: float
    contrast: float
    sharpness: float
    aspect: float


class Range(BaseModel):
    """A closed interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float


class FrameRanges(BaseModel):
    """The interval of each statistic in which a frame counts as familiar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def frame_statistics(frame: NDArray[np.uint8], source_size: tuple[int, int]) -> FrameStatistics:
    """Statistics of a network input [H, W, 3] made from a picture of `source_size` (width, height)."""
    luma = frame @ _LUMA
    centre = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * centre
    width, height = source_size
    return FrameStatistics(
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        sharpness=float(np.abs(laplacian).mean()),
        aspect=width / height,
    )
