"""Traces of requests: off unless OpenTelemetry's own environment asks for them, and an extra to install."""

from collections.abc import Mapping
from typing import Protocol

Facts = Mapping[str, object]
"""What a request's log line says; `timings_ms` is a mapping of its own."""
Carrier = Mapping[str, str]
"""The caller's W3C trace context: `traceparent` and `tracestate`, where they were sent."""
CARRIED = ("traceparent", "tracestate")


class Traces(Protocol):
    def record(self, facts: Facts, seconds: float, carrier: Carrier, failure: str | None) -> str:
        """Makes the span of a request that has just ended after so many seconds; the trace's id."""

    def close(self) -> None:
        """Sends what has not been sent; may take seconds."""
