"""What is kept of one verdict: numbers always, images while memory allows."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, Self

from service.values import Door, Inspection, Result, SentImage

_MAX_REGIONS = 32


@dataclass(slots=True, eq=False)
class Record:
    """What is kept of an inspection. `number` is set by the history."""

    request_id: str
    frame_id: str
    door: Door
    result: Result
    """Keeps only the regions with the highest peaks."""
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
        """The record's fields, as JSON for the operator page."""
        return self.result.facts(self.request_id, self.frame_id) | {
            "id": f"{history_id}-{self.number}",
            "at": self.at,
            "door": self.door,
            "guard_band": self.result.guard_band,
            "small": self.result.finding.small,
            "pictures": self.image is not None,
        }
