"""What a tracing implementation has to offer. Optional: see telemetry.py."""

from collections.abc import Mapping
from typing import Protocol

Facts = Mapping[str, object]
"""The fields of a request's log line; `timings_ms` is itself a mapping."""
Carrier = Mapping[str, str]
"""The caller's W3C trace context: `traceparent` and `tracestate`, if sent."""
CARRIED = ("traceparent", "tracestate")


class Traces(Protocol):
    def record(self, facts: Facts, seconds: float, carrier: Carrier, failure: str | None) -> str:
        """Records the span of a request that has just ended after `seconds`; returns the trace's id."""

    def close(self) -> None:
        """Sends the remaining spans; may take seconds."""
