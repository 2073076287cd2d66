"""One call at a door: counted, logged and traced exactly once, however it ends."""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from export.bundle import UNKNOWN
from service.archive import Archive
from service.errors import Denied, InspectionFailed, Outcome, Refused, ServiceError
from service.history import NOT_INSPECTED, History
from service.inspector import Inspector
from service.metrics import Metrics
from service.record import Record
from service.traces import Carrier, Traces
from service.values import Door, Inspection, cancelled_late

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calls:
    """What all calls share."""

    inspector: Inspector
    metrics: Metrics
    history: History
    archive: Archive | None
    traces: Traces | None

    def begin(self, door: Door, arrived: float | None = None) -> "Call":
        """`arrived` is an instant of `time.monotonic`; default: now."""
        return Call(door, self, time.monotonic() if arrived is None else arrived)


class Call:
    """A context manager: how its block ends, with which exception or none, is the call's outcome.

    A bug is logged, and leaves the block as InspectionFailed. The door sets the attributes as it learns them.
    """

    def __init__(self, door: Door, calls: Calls, arrived: float) -> None:
        self.door, self.arrived = door, arrived
        self.request_id = secrets.token_hex(8)
        self.frame_id = ""
        self.product = ""
        self.caller = ""
        self.inspection: Inspection | None = None
        self.deadline: float | None = None
        """gRPC's own, an instant of `time.monotonic`. A call cancelled then has expired."""
        self.carrier: Carrier = {}
        self._calls = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Recorded in the loop's next iteration, so that the answer is sent first.
        seconds = time.monotonic() - self.arrived
        asyncio.get_running_loop().call_soon(self._end, self._outcome(error), error, seconds)
        if isinstance(error, Exception) and not isinstance(error, ServiceError):
            _logger.error("a request failed", exc_info=error)
            raise InspectionFailed("the service failed on this request") from error

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return "ok"
        if isinstance(error, asyncio.CancelledError):
            return "expired" if cancelled_late(self.deadline) else "cancelled"
        return error.outcome if isinstance(error, ServiceError) else "failed"

    def _end(self, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        self._count(outcome, error)
        self._tell(outcome, error, seconds)
        # Frees the image: admission counts it no longer, but the call lives until its answer has been read.
        self.inspection = None

    def _tell(self, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        logged, traces = _logger.isEnabledFor(logging.INFO), self._calls.traces
        if not logged and traces is None:
            return
        facts, said = self._facts(outcome), "inspected" if outcome == "ok" else str(error) or outcome
        if traces is not None:
            failure = said if outcome == "failed" else None
            facts["trace_id"] = traces.record(facts, seconds, self.carrier, failure)
        if logged:
            _logger.info(said, extra=facts)

    def _count(self, outcome: Outcome, error: BaseException | None) -> None:
        metrics, history = self._calls.metrics, self._calls.history
        product = self.product if self.product in self._calls.inspector.catalog else UNKNOWN
        metrics.ended(product, self.door, outcome)
        if isinstance(error, Refused):
            metrics.rejected.labels(product, error.reason).inc()
        if isinstance(error, Denied):
            metrics.denied.labels(self.door, error.reason).inc()
        if outcome == "ok":
            assert self.inspection is not None
            metrics.answered(self.door, self.inspection.result)
            record = Record.of(self.inspection, self.door, self.request_id, self.frame_id)
            if self._calls.archive is not None:  # first: the history may have no room for the picture
                self._calls.archive.add(record)
            history.add(record)
        elif outcome != "bad_input" and product != UNKNOWN:
            history.count(product, NOT_INSPECTED)

    def _facts(self, outcome: Outcome) -> dict[str, object]:
        """The fields of the log line and of the span."""
        facts: dict[str, object] = {
            "door": self.door,
            "outcome": outcome,
            "request_id": self.request_id,
            "frame_id": self.frame_id,
            "product": self.product,
        }
        if self.caller:
            facts["caller"] = self.caller
        if self.inspection is not None:
            result, finding = self.inspection.result, self.inspection.result.finding
            facts |= {
                "version": result.version,
                "bundle_digest": result.bundle_digest,
                "sha256": result.sha256,
                "engine": result.engine,
                "verdict": finding.verdict,
                "reason": finding.reason,
                "unfamiliar": finding.unfamiliar,
                "score": round(finding.score, 4),
                "raw_score": finding.raw_score,
                "batch_size": result.batch_size,
                "timings_ms": result.timings.milliseconds(),
            }
        return facts
