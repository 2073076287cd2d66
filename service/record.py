"""What is kept of one verdict: numbers always, images while memory allows."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, Self

from export.bundle import THRESHOLD
from service.values import Door, Inspection, Result, SentImage, region_facts

_MAX_REGIONS = 32


@dataclass(slots=True, eq=False)
class Record:
    """What is kept of an inspection. `number` is set by the history."""

    request_id: str
    frame_id: str
    door: Door
    result: Result
    """With the regions of the highest peaks only."""
    image: SentImage | None
    number: int = 0
    at: float = field(default_factory=time.time)
    """Unix time of the answer, seconds."""

    @classmethod
    def of(cls, inspection: Inspection, door: Door, request_id: str, frame_id: str) -> Self:
        result, finding = inspection.result, inspection.result.finding
        if len(finding.regions) > _MAX_REGIONS:
            result = replace(result, finding=replace(finding, regions=finding.regions[:_MAX_REGIONS]))
        return cls(request_id, frame_id, door, result, inspection.image)

    def facts(self, history_id: str) -> dict[str, Any]:
        """As JSON for the operator page."""
        result, finding = self.result, self.result.finding
        return {
            "id": f"{history_id}-{self.number}",
            "at": self.at,
            "request_id": self.request_id,
            "frame_id": self.frame_id,
            "door": self.door,
            "product": result.product,
            "version": result.version,
            "engine": result.engine,
            "verdict": finding.verdict,
            "reason": finding.reason,
            "score": finding.score,
            "threshold": THRESHOLD,
            "raw_score": finding.raw_score,
            "raw_threshold": result.raw_threshold,
            "guard_band": result.guard_band,
            "small": finding.small,
            "regions": [region_facts(region) for region in finding.regions],
            "image": {"width": result.size.width, "height": result.size.height},
            "batch_size": result.batch_size,
            "timings_ms": result.timings.milliseconds(),
            "pictures": self.image is not None,
        }
