"""One call at a door, from its first byte to its end, however it ends: counted once, logged in one line."""

import asyncio
import logging
import secrets
import time
from types import TracebackType
from typing import Literal, Self

from service.errors import Outcome, Refused, ServiceError
from service.inspection import Inspection
from service.inspector import Inspector
from service.metrics import UNKNOWN, Metrics

Door = Literal["http", "grpc"]
_logger = logging.getLogger(__name__)


class Call:
    """A context: what leaves it, an exception or not, is how the call ended.

    The door fills in what it learns on the way.
    """

    def __init__(self, door: Door, inspector: Inspector, metrics: Metrics) -> None:
        self.door = door
        self.arrived = time.monotonic()
        self.request_id = secrets.token_hex(8)
        self.frame_id = ""
        self.product = ""
        self.inspection: Inspection | None = None
        self._inspector, self._metrics = inspector, metrics

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = _outcome(error)
        product = self.product if self.product in self._inspector.catalog else UNKNOWN
        self._metrics.ended(product, self.door, outcome)
        if isinstance(error, Refused):
            self._metrics.rejected.labels(product, error.reason).inc()
        if self.inspection is not None and outcome == "ok":
            self._metrics.answered(self.door, self.inspection)
        if _logger.isEnabledFor(logging.INFO):
            _logger.info(
                "inspected" if outcome == "ok" else str(error) or outcome, extra=self._facts(outcome)
            )

    def _facts(self, outcome: Outcome) -> dict[str, object]:
        facts: dict[str, object] = {
            "door": self.door,
            "outcome": outcome,
            "request_id": self.request_id,
            "frame_id": self.frame_id,
            "product": self.product,
        }
        if self.inspection is not None:
            reading = self.inspection.reading
            facts |= {
                "version": self.inspection.version,
                "verdict": reading.verdict,
                "score": round(reading.score, 4),
                "timings_ms": self.inspection.timings.milliseconds(),
            }
        return facts


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "ok"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return error.outcome if isinstance(error, ServiceError) else "failed"
