"""What is kept of one verdict: numbers always, images while memory allows."""

import time
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.bundle import THRESHOLD, Region
from service.values import Inspection, Timings, region_facts

_MAX_REGIONS = 32


@dataclass(frozen=True, slots=True)
class FrameAndMap:
    """The sent image file and its heatmap: a PNG if the caller asked for one, else scores, float32 [H, W]."""

    sent: bytes
    width: int
    height: int
    heatmap: bytes | NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes."""
        heatmap = self.heatmap
        return len(self.sent) + (len(heatmap) if isinstance(heatmap, bytes) else heatmap.nbytes)


@dataclass(slots=True, eq=False)
class Record:
    """What is kept of an inspection. `number` is set by the history."""

    request_id: str
    frame_id: str
    door: str
    product: str
    version: int
    engine: str
    verdict: str
    reason: str
    score: float
    raw_score: float
    raw_threshold: float
    guard_band: float
    small: bool
    """As in `Finding`."""
    regions: tuple[Region, ...]
    """Those with the highest peaks."""
    width: int
    height: int
    """The sent image's, upright."""
    batch_size: int
    timings: Timings
    pictures: FrameAndMap | None
    number: int = 0
    at: float = field(default_factory=time.time)
    """Unix time of the answer, seconds."""

    @classmethod
    def of(cls, inspection: Inspection, door: str, request_id: str, frame_id: str) -> Self:
        finding, image = inspection.finding, inspection.image
        return cls(
            request_id=request_id,
            frame_id=frame_id,
            door=door,
            product=inspection.product,
            version=inspection.version,
            engine=inspection.engine,
            verdict=finding.verdict,
            reason=finding.reason,
            score=finding.score,
            raw_score=finding.raw_score,
            raw_threshold=inspection.raw_threshold,
            guard_band=inspection.guard_band,
            small=finding.small,
            regions=finding.regions[:_MAX_REGIONS],
            width=image.width,
            height=image.height,
            batch_size=inspection.batch_size,
            timings=inspection.timings,
            pictures=FrameAndMap(inspection.sent, image.width, image.height, inspection.heatmap),
        )

    def facts(self, history_id: str) -> dict[str, Any]:
        """As JSON for the operator page."""
        return {
            "id": f"{history_id}-{self.number}",
            "at": self.at,
            "request_id": self.request_id,
            "frame_id": self.frame_id,
            "door": self.door,
            "product": self.product,
            "version": self.version,
            "engine": self.engine,
            "verdict": self.verdict,
            "reason": self.reason,
            "score": self.score,
            "threshold": THRESHOLD,
            "raw_score": self.raw_score,
            "raw_threshold": self.raw_threshold,
            "guard_band": self.guard_band,
            "small": self.small,
            "regions": [region_facts(region) for region in self.regions],
            "image": {"width": self.width, "height": self.height},
            "batch_size": self.batch_size,
            "timings_ms": self.timings.milliseconds(),
            "pictures": self.pictures is not None,
        }
