"""The gRPC door on a real port: the same answers, the same errors, and the stream."""

import queue
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import NOT_A_NUMBER, POISON, Gate
from tests.service.images import bomb, plain


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> InspectionServiceStub:
    return InspectionServiceStub(channel)


def request(level: int, **more: Any) -> pb.InspectRequest:
    given: dict[str, Any] = {"image": plain(level), "product": "tile", "frame_id": f"frame {level}"} | more
    return pb.InspectRequest(**given)


def test_include_names_the_parts(stub: InspectionServiceStub) -> None:
    numbers = stub.Inspect(request(200, include=[""]))
    overlay = stub.Inspect(request(200, include=["overlay"]))

    assert not numbers.regions
    assert not numbers.HasField("heatmap")
    assert not numbers.HasField("mask")
    assert overlay.HasField("overlay")
    assert not overlay.HasField("mask")


WRONG: dict[str, tuple[grpc.StatusCode, pb.InspectRequest]] = {
    "a text": (grpc.StatusCode.INVALID_ARGUMENT, request(1, image=b"not an image")),
    "a truncated JPEG": (
        grpc.StatusCode.INVALID_ARGUMENT,
        request(1, image=plain(9, (64, 64), "JPEG")[:-200]),
    ),
    "an unknown part": (grpc.StatusCode.INVALID_ARGUMENT, request(1, include=["soul"])),
    "a frame id that is too long": (grpc.StatusCode.INVALID_ARGUMENT, request(1, frame_id="x" * 129)),
    "a product's name without end": (grpc.StatusCode.INVALID_ARGUMENT, request(1, product="x" * 100_000)),
    "no product": (grpc.StatusCode.INVALID_ARGUMENT, request(1, product="")),
    "an unknown product": (grpc.StatusCode.NOT_FOUND, request(1, product="no")),
    "an unknown version": (grpc.StatusCode.NOT_FOUND, request(1, version=9)),
    "too many bytes": (grpc.StatusCode.RESOURCE_EXHAUSTED, request(1, image=bytes(200_001))),
    "absurdly many bytes": (grpc.StatusCode.RESOURCE_EXHAUSTED, request(1, image=bytes(3_000_000))),
    "too many pixels": (grpc.StatusCode.RESOURCE_EXHAUSTED, request(1, image=bomb())),
    "a frame on which the engine fails": (grpc.StatusCode.INTERNAL, request(POISON)),
    "a frame whose score is not a number": (grpc.StatusCode.INTERNAL, request(NOT_A_NUMBER)),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_have_their_status(stub: InspectionServiceStub, case: str) -> None:
    code, wrong = WRONG[case]

    with pytest.raises(grpc.RpcError) as failure:
        stub.Inspect(wrong)

    assert failure.value.code() is code
    assert failure.value.details()


def test_an_answer_whose_encoding_outlasts_its_deadline_is_not_given(
    stub: InspectionServiceStub, takes_a_minute: Callable[[str], None]
) -> None:
    takes_a_minute("service.rpc.servicer.response_of")
    with pytest.raises(grpc.RpcError) as late:
        stub.Inspect(request(1, deadline_ms=30_000))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_full_queue_says_when_to_retry(stub: InspectionServiceStub, gate: Gate, running: Running) -> None:
    gate.shut()
    with ThreadPoolExecutor(8) as callers:
        answers = [callers.submit(stub.Inspect, request(1))]
        gate.wait_for_batch()
        with pytest.raises(grpc.RpcError) as late:
            stub.Inspect(request(2, deadline_ms=60))
        with pytest.raises(grpc.RpcError) as late_call:
            stub.Inspect(request(2), timeout=0.06)
        answers += [callers.submit(stub.Inspect, request(level)) for level in range(2, 9)]
        wait_for_depth(running, 8)
        with pytest.raises(grpc.RpcError) as full:
            stub.Inspect(request(9))
        gate.open()
        assert [round(255 * answer.result().raw_score) for answer in answers] == list(range(1, 9))

    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert late.value.code() is late_call.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    metadata: Any = full.value.trailing_metadata()
    trailing = dict(metadata)
    retry = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == int(trailing["grpc-retry-pushback-ms"]) > 0


def test_the_earlier_of_a_call_s_two_deadlines_counts(stub: InspectionServiceStub, gate: Gate) -> None:
    gate.shut()
    first = stub.Inspect.future(request(1))
    gate.wait_for_batch()
    late = stub.Inspect.future(request(2, deadline_ms=60), timeout=60)
    failure: Any = late.exception(timeout=20)
    gate.open()
    assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert first.result().verdict == "OK"


def test_calls_that_end_at_their_own_deadline_are_counted_as_expired(models: Path) -> None:
    """gRPC cancels them at the same moment as the service ends them."""
    gate = Gate()

    def count(outcome: str) -> float:
        return running.sample("drd_requests_total", product="tile", door="grpc", outcome=outcome)

    with serving(models, gate.start) as running, grpc.insecure_channel(running.target) as channel:
        gate.shut()
        own = InspectionServiceStub(channel)
        calls = [own.Inspect.future(request(2), timeout=0.5) for _ in range(60)]
        failures: list[Any] = [call.exception() for call in calls]
        assert {failure.code() for failure in failures} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        wait_until(lambda: count("expired") + count("cancelled") == 60)
        gate.open()
    assert count("cancelled") == 0


def test_a_cancelled_call_never_reaches_the_engine(
    stub: InspectionServiceStub, gate: Gate, running: Running
) -> None:
    gate.batches.clear()
    gate.shut()
    first = stub.Inspect.future(request(1))
    gate.wait_for_batch()
    second = stub.Inspect.future(request(2))
    wait_for_depth(running, 2)
    second.cancel()
    wait_for_depth(running, 1)
    gate.open()

    assert first.result().verdict == "OK"
    assert gate.batches == [(1,)]


def test_a_stream_answers_every_frame_and_outlives_bad_ones(stub: InspectionServiceStub) -> None:
    frames = [request(level) for level in range(1, 60)]
    frames[20].image = b"text"
    frames[30].product = "no"
    frames[40].frame_id = "x" * 200

    answers = {answer.frame_id: answer for answer in stub.InspectStream(iter(frames))}

    assert answers.keys() == {frame.frame_id for frame in frames}
    codes = {
        name: answer.error.code for name, answer in answers.items() if answer.WhichOneof("outcome") == "error"
    }
    poisoned = {f"frame {POISON}", f"frame {NOT_A_NUMBER}"}
    assert codes.keys() >= poisoned | {"frame 21", "frame 31", "x" * 200}
    assert codes["frame 21"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert codes["frame 31"] == grpc.StatusCode.NOT_FOUND.value[0]
    for name, answer in answers.items():
        if name not in codes:
            assert round(255 * answer.result.raw_score) == int(name.removeprefix("frame "))


def test_a_frames_own_deadline_is_answered_in_band(stub: InspectionServiceStub, gate: Gate) -> None:
    outgoing: queue.Queue[pb.InspectRequest | None] = queue.Queue()
    gate.shut()
    answers = stub.InspectStream(iter(outgoing.get, None))
    outgoing.put(request(1))
    gate.wait_for_batch()
    outgoing.put(request(2, deadline_ms=50))

    late = next(answers)
    gate.open()
    on_time = next(answers)
    outgoing.put(None)

    assert (late.frame_id, late.error.code) == ("frame 2", grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert (on_time.frame_id, on_time.result.verdict) == ("frame 1", "OK")
    assert list(answers) == []


def test_a_cancelled_stream_frees_its_places(
    stub: InspectionServiceStub, gate: Gate, running: Running
) -> None:
    outgoing: queue.Queue[pb.InspectRequest | None] = queue.Queue()
    gate.shut()
    answers = stub.InspectStream(iter(outgoing.get, None))
    for level in (1, 2, 3):
        outgoing.put(request(level))
    wait_for_depth(running, 3)

    answers.cancel()
    wait_for_depth(running, 0)
    gate.open()
    outgoing.put(None)

    assert stub.Inspect(request(5)).verdict == "OK"


def test_products_health_and_reflection(
    channel: grpc.Channel, stub: InspectionServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    products = stub.ListProducts(pb.ListProductsRequest()).products
    health: Any = health_pb2_grpc.HealthStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    assert [(product.name, product.version, product.state) for product in products] == [
        ("bolt", 1, "READY"),
        ("tile", 1, "READY"),
    ]
    for name in ("", "drd.inspection.v1.InspectionService"):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status
            == health_pb2.HealthCheckResponse.SERVING
        )
    listed = health.List(health_pb2.HealthListRequest()).statuses  # type: ignore[attr-defined]
    assert {name: listed[name].status for name in listed} == dict.fromkeys(
        ("", "drd.inspection.v1.InspectionService"), health_pb2.HealthCheckResponse.SERVING
    )
    malformed: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as refused:
        malformed(b"\xff")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (reflected,) = reflection.ServerReflectionInfo(iter([asked]))
    assert "drd.inspection.v1.InspectionService" in {
        service.name for service in reflected.list_services_response.service
    }
    for version in ("v1alpha", "v1"):
        info: Any = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        assert list(info(iter([asked.SerializeToString()]))) == [reflected.SerializeToString()]
        assert len(list(info(iter([b"\xff"])))) == 1
    assert caplog.records == []


def test_a_connection_without_calls_is_closed(models: Path) -> None:
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes.fromhex("000000040000000000")
    with serving(models, idle_seconds=0.2) as running:
        host, _, port = running.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as idle:
            idle.sendall(preface + settings)
            while idle.recv(4096):  # until it is closed
                pass


def test_an_old_connection_answers_its_call_and_takes_no_other(models: Path) -> None:
    gate, states = Gate(), list[grpc.ChannelConnectivity]()
    with (
        serving(models, gate.start, max_connection_age_seconds=0.1) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        channel.subscribe(states.append)
        gate.shut()
        young = InspectionServiceStub(channel)
        first = young.Inspect.future(request(1))
        gate.wait_for_batch()
        wait_until(lambda: grpc.ChannelConnectivity.READY in states)
        wait_until(lambda: states[-1] is grpc.ChannelConnectivity.IDLE)  # it is to reconnect
        assert not first.done()
        second = young.Inspect.future(request(2))
        wait_for_depth(running, 2)
        gate.open()
        assert [round(255 * call.result().raw_score) for call in (first, second)] == [1, 2]


def wait_for_depth(running: Running, frames: int) -> None:
    lane = running.service.inspector.catalog.lane("tile")
    wait_until(lambda: lane.pending == frames)
