"""Tracing, which is optional: what an implementation offers, and whether the environment asks for one.

The implementation is otel.py, which is imported only when it is asked for.
"""

import logging
from collections.abc import Mapping
from typing import Protocol

Facts = Mapping[str, object]
"""The fields of a request's log line; `timings_ms` is itself a mapping."""
Carrier = Mapping[str, str]
"""The caller's W3C trace context: `traceparent` and `tracestate`, if sent."""
CARRIED = ("traceparent", "tracestate")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_logger = logging.getLogger(__name__)


class Traces(Protocol):
    """Sink for the spans of requests."""

    def record(self, facts: Facts, seconds: float, carrier: Carrier, failure: str | None) -> str:
        """Records the span of a request that has just ended after `seconds`; returns the trace's id."""

    def close(self) -> None:
        """Sends the remaining spans; may take seconds."""


def open_traces(environment: Mapping[str, str]) -> Traces | None:
    """Traces to the exporter or endpoint of `environment`. None if it names none; None and a warning if it is
    not installed."""
    if not _asked(environment):
        return None
    try:  # an extra: it may not be installed
        from service.otel import OpenTelemetry

        return OpenTelemetry.exporting(environment)
    except ImportError as error:
        _logger.warning("no traces: %s; the extra drd-inspect[otel] is not installed", error)
    except LookupError as error:
        _logger.warning("no traces: the exporter %s is not installed", error)
    except ValueError as error:  # of an OTEL_* variable: it must not keep the inspection from starting
        _logger.warning("no traces: %s", error)
    return None


def _asked(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ""
    return exporter != "none" and bool(exporter or any(environment.get(name) for name in _ENDPOINTS))
