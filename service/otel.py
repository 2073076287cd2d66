"""OpenTelemetry: one span per request, made when the request has ended, with the fields of its log line.

The only file that imports opentelemetry. Sampling, names and addresses are set by the library's OTEL_*
variables.
"""

import time
from collections.abc import Mapping
from importlib.metadata import entry_points

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""Entry point name of the exporter, by protocol."""


class OpenTelemetry:
    """The `Traces` of traces.py: records spans with `provider`, and shuts it down on close."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("drd-inspect")
        self._context = TraceContextTextMapPropagator()

    @staticmethod
    def exporting(environment: Mapping[str, str]) -> "OpenTelemetry":
        """Exports to where `environment` says; LookupError when that exporter is not installed."""
        name = OTELResourceDetector().detect().attributes.get("service.name", "drd-inspect")
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        for exporter in (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
            provider.add_span_processor(BatchSpanProcessor(_exporter(exporter.strip(), environment)()))
        return OpenTelemetry(provider)

    def record(
        self, facts: Mapping[str, object], seconds: float, carrier: Mapping[str, str], failure: str | None
    ) -> str:
        ended = time.time_ns()
        span = self._tracer.start_span(
            "inspect",
            self._context.extract(carrier),
            SpanKind.SERVER,
            attributes=_attributes(facts),
            start_time=ended - int(1e9 * seconds),
        )
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(ended)
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        self._provider.shutdown()


def _exporter(name: str, environment: Mapping[str, str]) -> type[SpanExporter]:
    if name == "otlp":
        protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        name = _OTLP.get(environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol), protocol)
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: type[SpanExporter] = found.load()
        return exporter
    raise LookupError(name)


def _attributes(facts: Mapping[str, object]) -> dict[str, AttributeValue]:
    """`drd.NAME`, and `drd.STAGE_ms` for the timings."""
    attributes = dict[str, AttributeValue]()
    for name, value in facts.items():
        if isinstance(value, Mapping):
            attributes |= {f"drd.{stage}_ms": milliseconds for stage, milliseconds in value.items()}
        elif isinstance(value, str | int | float | tuple):
            attributes[f"drd.{name}"] = value
    return attributes
