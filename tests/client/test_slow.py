"""Clients of services that are slow to connect, or answer late."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.rpc.status_pb2 import Status

from service import client
from service.client import Client, Frame
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import (
    InspectionServiceServicer,
    add_InspectionServiceServicer_to_server,
)
from tests.client.conftest import frame

Answer = Callable[[pb.InspectRequest], Iterable[pb.InspectStreamResponse]]
CONNECTS_SECONDS = 0.5
LEFT_MS = 9_800
"""The most that is left of 10 s after such a start; gRPC adds up to 3 %."""


class Fake(InspectionServiceServicer):
    """Gives the answers of a test."""

    def __init__(self, answer: Answer, connects_seconds: float = 0.0) -> None:
        self._answer, self._connects_seconds = answer, connects_seconds
        self.left_ms = list[float]()
        """Of each frame and each call."""

    def ListProducts(  # noqa: N802
        self, request: pb.ListProductsRequest, context: grpc.ServicerContext
    ) -> pb.ListProductsResponse:
        time.sleep(self._connects_seconds)  # a client connects with this call
        return pb.ListProductsResponse()

    def Inspect(  # noqa: N802
        self, request: pb.InspectRequest, context: grpc.ServicerContext
    ) -> pb.InspectResponse:
        self.left_ms += [request.deadline_ms, 1000 * context.time_remaining()]
        return next(iter(self._answer(request))).result

    def InspectStream(  # noqa: N802
        self, request_iterator: Iterator[pb.InspectRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InspectStreamResponse]:
        for request in request_iterator:
            self.left_ms.append(request.deadline_ms)
            yield from self._answer(request)


class Hanging(Fake):
    """Never answers in its first stream, though the connection stays."""

    streams = 0

    def InspectStream(  # noqa: N802
        self, request_iterator: Iterator[pb.InspectRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InspectStreamResponse]:
        self.streams += 1
        if self.streams > 1:
            yield from super().InspectStream(request_iterator, context)
        for _ in request_iterator:
            pass


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_InspectionServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def ok(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
    result = pb.InspectResponse(
        request_id=request.request_id, frame_id=request.frame_id, product=request.product, verdict="OK"
    )
    yield pb.InspectStreamResponse(request_id=result.request_id, frame_id=result.frame_id, result=result)


@pytest.mark.parametrize("newer", [True, False])
def test_a_late_error_is_not_that_of_the_next_frame_of_its_name(newer: bool) -> None:
    """An older service does not tell whose it is: then it must be taken for the next frame's."""

    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        if request.request_id == "second":
            yield pb.InspectStreamResponse(request_id="first" if newer else "", error=Status(code=13))
            yield from ok(request)

    first = frame(1, frame_id="", request_id="first", deadline=0.1)
    second = frame(2, frame_id="", request_id="second")

    with serving(Fake(answer)) as address, Client(address) as drd:
        late, following = drd.stream([first, second], window=1)

    assert isinstance(late.error, client.DeadlinePassed)
    assert type(following.error) is (type(None) if newer else client.InspectionFailed)


def test_a_stream_that_is_silent_is_given_up() -> None:
    """A balancer may hold the connection to a replica that hangs, while another works."""
    answered = threading.Event()

    def camera() -> Iterator[Frame]:
        for number in range(40):
            if answered.is_set():
                return
            yield frame(number, frame_id=str(number), deadline=0.2)

    with serving(Hanging(ok)) as address, Client(address) as drd:
        for outcome in drd.stream(camera(), window=1):
            if outcome.answer:
                answered.set()

    assert answered.is_set()


def test_the_time_that_is_sent_is_what_connecting_left() -> None:
    fake = Fake(ok, CONNECTS_SECONDS)

    with serving(fake) as address, Client(address) as drd:
        drd.inspect(frame(1, deadline=10))
        assert [outcome.error for outcome in drd.stream([frame(2, deadline=10)])] == [None]

    assert len(fake.left_ms) == 3
    assert max(fake.left_ms) <= LEFT_MS
