"""Traces of requests: off unless OpenTelemetry's own environment asks for them, and an extra to install."""

import logging
from collections.abc import Mapping
from typing import Protocol

Facts = Mapping[str, object]
"""What a request's log line says; `timings_ms` is a mapping of its own."""
Carrier = Mapping[str, str]
"""The caller's W3C trace context: `traceparent` and `tracestate`, where they were sent."""
CARRIED = ("traceparent", "tracestate")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_logger = logging.getLogger(__name__)


class Traces(Protocol):
    def record(self, facts: Facts, seconds: float, carrier: Carrier, failure: str | None) -> str:
        """Makes the span of a request that has just ended after so many seconds; the trace's id."""

    def close(self) -> None:
        """Sends what has not been sent; may take seconds."""


def open_traces(environment: Mapping[str, str]) -> Traces | None:
    """What the environment asks for, an exporter or an endpoint; None and a warning where it can't be had."""
    if not _asked(environment):
        return None
    try:
        from service.otel import OpenTelemetry

        return OpenTelemetry.exporting(environment)
    except ImportError as error:
        _logger.warning("no traces: %s; the extra drd-inspect[otel] is not installed", error)
    except LookupError as error:
        _logger.warning("no traces: there is no exporter %s", error)
    return None


def _asked(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ""
    return exporter != "none" and bool(exporter or any(environment.get(name) for name in _ENDPOINTS))
