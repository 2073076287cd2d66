"""Traces: one span per request, in the caller's trace, with the values of answer and log."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NoReturn

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from service.otel import OpenTelemetry
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from service.values import STAGES
from tests.bundles import make_bundle
from tests.e2e.serving import Running, process, serving, wait_until
from tests.http_server import http_server
from tests.service.engines import POISON, Gate
from tests.service.images import plain

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "line=3"}


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, exporter: InMemorySpanExporter) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serving(models, Gate().start, OpenTelemetry(provider)) as service:
        yield service


@pytest.fixture(autouse=True)
def _none_before(exporter: InMemorySpanExporter) -> None:
    exporter.clear()


def spans(exporter: InMemorySpanExporter, count: int = 1) -> tuple[ReadableSpan, ...]:
    wait_until(lambda: len(exporter.get_finished_spans()) == count)
    return exporter.get_finished_spans()


def is_in_the_callers_trace(span: ReadableSpan) -> bool:
    assert span.context
    assert span.parent
    ids = format_trace_id(span.context.trace_id), format_span_id(span.parent.span_id)
    return ids == (TRACE, CALLER) and span.context.trace_state.get("line") == "3"


def test_a_request_over_http_is_a_span_in_the_callers_trace(
    running: Running, exporter: InMemorySpanExporter
) -> None:
    url, began = f"{running.url}/v1/inspect?product=tile&frame_id=7", time.monotonic()
    answer = httpx.post(url, content=plain(200), headers=PARENT).json()

    (span,) = spans(exporter)
    assert is_in_the_callers_trace(span)
    assert span.kind is SpanKind.SERVER
    assert span.attributes
    for name in ("request_id", "frame_id", "product", "version", "verdict"):
        assert span.attributes[f"drd.{name}"] == answer[name]
    assert span.attributes["drd.unfamiliar"] == tuple(answer["unfamiliar"])
    for name in ("bundle_digest", "raw_score", "batch_size"):
        assert span.attributes[f"drd.{name}"] == answer[name]
    assert span.attributes["drd.sha256"] == answer["image"]["sha256"]
    for stage in (*STAGES, "total"):
        assert span.attributes[f"drd.{stage}_ms"] == answer["timings_ms"][stage]
    assert span.start_time
    assert span.end_time
    seconds = (span.end_time - span.start_time) / 1e9
    assert answer["timings_ms"]["total"] / 1000 <= seconds <= time.monotonic() - began


def test_frames_over_grpc_are_spans_in_the_callers_trace(
    running: Running, exporter: InMemorySpanExporter
) -> None:
    frames = [pb.InspectRequest(image=plain(level), product="tile", frame_id=str(level)) for level in (1, 2)]
    with grpc.insecure_channel(running.target) as channel:
        stub = InspectionServiceStub(channel)
        stub.Inspect(frames[0], metadata=tuple(PARENT.items()))
        list(stub.InspectStream(iter(frames), metadata=tuple(PARENT.items())))

    made = spans(exporter, 3)
    assert all(map(is_in_the_callers_trace, made))
    assert sorted(str((span.attributes or {})["drd.frame_id"]) for span in made) == ["1", "1", "2"]


def test_without_a_context_a_request_is_a_trace_of_its_own(
    running: Running, exporter: InMemorySpanExporter
) -> None:
    for context in ({}, {"traceparent": "00-nonsense-01"}):
        httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(1), headers=context)

    first, second = spans(exporter, 2)
    assert first.parent is second.parent is None
    assert first.context
    assert second.context
    assert first.context.trace_id != second.context.trace_id


@pytest.mark.parametrize(
    ("level", "product", "outcome", "status"),
    [(POISON, "tile", "failed", StatusCode.ERROR), (1, "no", "bad_input", StatusCode.UNSET)],
)
def test_a_failure_of_ours_is_an_error_and_the_callers_is_not(
    running: Running,
    exporter: InMemorySpanExporter,
    level: int,
    product: str,
    outcome: str,
    status: StatusCode,
) -> None:
    httpx.post(f"{running.url}/v1/inspect?product={product}", content=plain(level))

    (span,) = spans(exporter)
    assert (span.attributes or {})["drd.outcome"] == outcome
    assert span.status.status_code is status


def test_the_standard_environment_sends_them_to_a_collector(models: Path) -> None:
    received = list[ExportTraceServiceRequest]()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(
                ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            )
            self.send_response(200)
            self.end_headers()

    with (
        http_server(Collector) as endpoint,
        process("--models", models, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as service,
    ):
        url = f"{service.url}/v1/inspect?product=tile"
        httpx.post(url, content=plain(200), headers=PARENT)
        service.popen.terminate()
        assert service.popen.wait(20) == 0  # remaining spans are sent at shutdown
        log = service.log()

    (resource,) = received[0].resource_spans
    assert ("service.name", "drd-inspect") in {
        (a.key, a.value.string_value) for a in resource.resource.attributes
    }
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("inspect", TRACE, CALLER)
    assert [line["trace_id"] for line in log if "trace_id" in line] == [TRACE]


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE=5000", "OTEL_ATTRIBUTE_COUNT_LIMIT=-1"])
def test_a_value_that_the_library_refuses_does_not_keep_the_service_from_starting(
    models: Path, variable: str
) -> None:
    name, _, value = variable.partition("=")

    with process("--models", models, **{name: value}, OTEL_TRACES_EXPORTER="otlp") as service:
        answer = httpx.post(f"{service.url}/v1/inspect?product=tile", content=plain(200))
        (warning,) = (line for line in service.log() if line["level"] == "warning")

    assert answer.json()["verdict"] == "NG"
    assert warning["message"].startswith("no traces: ")


def test_a_bug_is_told_alike_at_both_doors(
    running: Running,
    exporter: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its cause in the log and the trace, and nothing of it to the caller."""

    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError("a secret of the code")

    monkeypatch.setattr("service.http.inspect.answer_of", broken)
    monkeypatch.setattr("service.rpc.servicer.response_of", broken)
    answer = httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(1))
    with (
        grpc.insecure_channel(running.target) as channel,
        pytest.raises(grpc.RpcError) as ended,
    ):
        InspectionServiceStub(channel).Inspect(pb.InspectRequest(image=plain(1), product="tile"))

    assert (answer.status_code, ended.value.code()) == (500, grpc.StatusCode.INTERNAL)
    assert answer.json()["detail"] == ended.value.details() == "the service failed on this request"
    assert [span.status.description for span in spans(exporter, 2)] == ["a secret of the code"] * 2
    told = [(record.name, record.getMessage()) for record in caplog.records if record.exc_info]
    assert told == [("service.calls", "a request failed")] * 2


def test_where_the_extra_is_missing_the_service_says_so_and_runs(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
    )
    path = f"{tmp_path}/without:{Path.cwd()}"

    with process("--models", tmp_path, PYTHONPATH=path, OTEL_TRACES_EXPORTER="otlp") as service:
        answer = httpx.post(f"{service.url}/v1/inspect?product=tile", content=plain(200))
        (warning,) = (line for line in service.log() if line["level"] == "warning")

    assert answer.json()["verdict"] == "NG"
    assert "drd-inspect[otel] is not installed" in warning["message"]


def test_nothing_of_it_is_imported_unless_asked_for() -> None:
    program = (
        "import json, os, sys; import service.cli; from service.traces import open_traces;"
        "open_traces({});"
        "open_traces({'OTEL_TRACES_EXPORTER': 'none', 'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://x'});"
        "open_traces({'OTEL_SDK_DISABLED': 'true', 'OTEL_TRACES_EXPORTER': 'otlp'});"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry.sdk')]))"
    )
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert json.loads(imported.stdout) == []
