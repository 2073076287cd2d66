"""Clients of services that are slow to connect, or answer late."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import create_server
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from service import client
from service.client import Client, Frame, rpc_stream
from service.rpc.pb import inspection_pb2 as pb
from tests.client.conftest import frame
from tests.client.fakes import Fake, ok, serving

CONNECTS_SECONDS = 0.5
LEFT_MS = 9_800
"""The most that is left of 10 s after such a start; gRPC adds up to 3 %."""


class Hanging(Fake):
    """Never answers in its first stream, though the connection stays."""

    hangs = True

    def InspectStream(  # noqa: N802
        self, request_iterator: Iterator[pb.InspectRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InspectStreamResponse]:
        hangs, self.hangs = self.hangs, False
        if not hangs:
            yield from super().InspectStream(request_iterator, context)
        for _ in request_iterator:
            pass


@pytest.mark.parametrize("differs", ["frame_id", "request_id"])
def test_a_late_error_is_not_that_of_the_next_frame_of_its_name(differs: str) -> None:
    names: list[dict[str, Any]] = [
        {"frame_id": "part", "request_id": "line"} | {differs: name} for name in ("first", "second")
    ]

    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        if getattr(request, differs) == "second":
            yield pb.InspectStreamResponse(**names[0], error=Status(code=13))
            yield from ok(request)

    frames = [frame(1, **names[0], deadline=0.1), frame(2, **names[1])]
    with serving(Fake(answer)) as address, Client(address) as drd:
        late, following = drd.stream(frames, window=1)

    assert isinstance(late.error, client.DeadlinePassed)
    assert following.error is None


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


def test_a_stream_that_answers_again_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late frame says nothing of it any more: with another stream, frames in flight would be lost."""
    monkeypatch.setattr(rpc_stream, "_SILENT_SECONDS", 600)
    fake = Fake(lambda request: () if request.frame_id == "late" else ok(request))

    def camera() -> Iterator[Frame]:
        yield frame(1, frame_id="late", deadline=0.1)
        yield frame(2)
        monkeypatch.setattr(rpc_stream, "_SILENT_SECONDS", 0)
        yield frame(3)

    with serving(fake) as address, Client(address) as drd:
        late, *others = drd.stream(camera(), window=1)

    assert isinstance(late.error, client.DeadlinePassed)
    assert [outcome.error for outcome in others] == [None, None]
    assert fake.streams == 1


def test_the_time_that_is_sent_is_what_connecting_left() -> None:
    fake = Fake(ok, CONNECTS_SECONDS)

    with serving(fake) as address, Client(address) as drd:
        drd.inspect(frame(1, deadline=10))
        assert [outcome.error for outcome in drd.stream([frame(2, deadline=10)])] == [None]

    assert len(fake.left_ms) == 3
    assert max(fake.left_ms) <= LEFT_MS


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_products_are_not_waited_for_for_ever(door: str) -> None:
    with (
        create_server(("127.0.0.1", 0)) as silent,
        ThreadPoolExecutor(1) as caller,
        Client(f"{door}://127.0.0.1:{silent.getsockname()[1]}", deadline=0.2) as drd,
    ):
        asked = caller.submit(drd.products)
        with pytest.raises(client.DeadlinePassed, match=r"no answer within 0\.2 s"):
            asked.result(timeout=30)
