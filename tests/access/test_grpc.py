"""The gRPC door asks for tokens: every method, and every frame of a stream."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from tests.access.conftest import Guarded
from tests.e2e.serving import wait_until
from tests.service.images import plain

Metadata = tuple[tuple[str, str], ...]


def bearer(secret: str) -> Metadata:
    return (("authorization", f"Bearer {secret}"),)


@pytest.fixture
def channel(guarded: Guarded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(guarded.running.target) as channel:
        yield channel


def frame(product: str, frame_id: str = "") -> pb.InspectRequest:
    return pb.InspectRequest(image=plain(9), product=product, frame_id=frame_id)


def code_of(ask: Callable[..., Any], request: object, metadata: Metadata) -> grpc.StatusCode:
    """How a call ends; `ask` is a method of a stub, of whatever kind."""
    try:
        answer = ask(request, metadata=metadata, timeout=30)
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    "metadata", [(), bearer(""), bearer("drd_no-such-token"), (("authorization", "Basic YTpi"),)]
)
def test_every_method_asks_for_a_token(channel: grpc.Channel, metadata: Metadata) -> None:
    stub = InspectionServiceStub(channel)
    never = threading.Event()

    def silence() -> Iterator[pb.InspectRequest]:
        never.wait(30)
        yield from ()

    asked = {
        stub.Inspect: frame("tile"),
        stub.InspectStream: silence(),  # refused before a first frame comes
        stub.ListProducts: pb.ListProductsRequest(),
        reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo: iter(
            [reflection_pb2.ServerReflectionRequest(list_services="")]
        ),
    }
    codes = {code_of(ask, request, metadata) for ask, request in asked.items()}
    never.set()
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}


def test_strangers_are_counted(channel: grpc.Channel, guarded: Guarded) -> None:
    def denied(reason: str) -> float:
        return guarded.running.sample("drd_denied_total", door="grpc", reason=reason)

    stub, reasons = InspectionServiceStub(channel), ("missing", "unknown", "product")
    before = [denied(reason) for reason in reasons]
    for metadata in ((), bearer("drd_no-such-token"), bearer("drd_no-such-token")):
        code_of(stub.ListProducts, pb.ListProductsRequest(), metadata)
    code_of(stub.Inspect, frame("bolt"), bearer(guarded.tile))
    expected = [before[0] + 1, before[1] + 2, before[2] + 1]
    wait_until(lambda: [denied(reason) for reason in reasons] == expected)


def test_health_alone_is_for_everybody(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_token_opens_its_products_and_no_other(channel: grpc.Channel, guarded: Guarded) -> None:
    stub = InspectionServiceStub(channel)
    codes = [
        code_of(stub.Inspect, frame(product), bearer(secret))
        for secret in (guarded.all, guarded.tile, guarded.expired)
        for product in ("tile", "bolt", "none")
    ]
    code = grpc.StatusCode
    assert codes[:3] == [code.OK, code.OK, code.NOT_FOUND]
    assert codes[3:6] == [code.OK, code.PERMISSION_DENIED, code.PERMISSION_DENIED]
    assert codes[6:] == [code.UNAUTHENTICATED] * 3


def test_products_are_shown_to_whom_they_concern(channel: grpc.Channel, guarded: Guarded) -> None:
    stub = InspectionServiceStub(channel)
    names = [
        [product.name for product in stub.ListProducts(pb.ListProductsRequest(), metadata=bearer(s)).products]
        for s in (guarded.all, guarded.tile)
    ]
    assert names == [["bolt", "tile"], ["tile"]]


def test_a_stream_answers_each_frame_by_what_its_token_is_for(
    channel: grpc.Channel, guarded: Guarded
) -> None:
    frames = [frame(product, product) for product in ("tile", "bolt", "tile")]
    answers = InspectionServiceStub(channel).InspectStream(
        iter(frames), metadata=bearer(guarded.tile), timeout=30
    )
    codes = sorted((answer.frame_id, answer.error.code) for answer in answers)
    denied = grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert codes == [("bolt", denied), ("tile", 0), ("tile", 0)]


def test_a_stream_does_not_outlive_its_token(channel: grpc.Channel, guarded: Guarded) -> None:
    before = guarded.tokens.path.read_text()
    secret = guarded.tokens.add("visitor")
    stub = InspectionServiceStub(channel)
    wait_until(lambda: code_of(stub.Inspect, frame("tile"), bearer(secret)) is grpc.StatusCode.OK)
    removed = threading.Event()

    def frames() -> Iterator[pb.InspectRequest]:
        yield frame("tile", "first")
        removed.wait(30)
        yield frame("tile", "second")

    answers = stub.InspectStream(frames(), metadata=bearer(secret), timeout=30)
    assert next(answers).HasField("result")
    guarded.tokens.path.write_text(before)
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    wait_until(lambda: code_of(stub.Inspect, frame("tile"), bearer(secret)) is unauthenticated)
    removed.set()
    assert next(answers).error.code == unauthenticated.value[0]
