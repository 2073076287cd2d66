"""Clients of something that is no inspection service, or is behind a proxy that is no help."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, Literal

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from service import client
from service.client import Client, rest
from service.rpc.pb import inspection_pb2 as pb
from tests.client.conftest import frame
from tests.client.fakes import Fake, listening, ok, serving
from tests.http_server import http_server

WHOLE: dict[str, Any] = {
    "request_id": "r",
    "frame_id": "part 1",
    "product": "tile",
    "version": 1,
    "bundle_digest": "d",
    "engine": "onnx-f32",
    "verdict": "OK",
    "reason": "",
    "score": 0.1,
    "threshold": 0.5,
    "raw_score": 1.5,
    "raw_threshold": 2,
    "image": {"width": 32, "height": 32, "sha256": "s"},
    "regions": [],
    "timings_ms": dict.fromkeys(client.Timings.__slots__, 0.5),
    "batch_size": 1,
}
PROBLEM, PAGE = {"content-type": "application/problem+json"}, {"content-type": "text/html"}


@dataclass
class Answer:
    """One over HTTP: an inspection unless `body` says otherwise."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: object = field(default_factory=lambda: WHOLE)


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[Message]]]:
    """The address of what gives these answers in turn, and the heads of the requests that it got."""
    heads, left = list[Message](), list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            heads.append(self.headers)
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            answer = left.pop(0)
            content = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http_server(Handler) as url:
        yield url, heads


@pytest.mark.parametrize(
    "odd",
    [
        {"score": None},
        {"score": "0.1"},
        {"score": math.nan},
        {"score": 1.5},
        {"score": 0.99},
        {"score": 10**400},
        {"threshold": -1},
        {"verdict": "ok"},
        {"verdict": ["OK"]},
        {"frame_id": "part 2"},
        {"request_id": "s"},
        {"product": "bolt"},
        {"version": 2},
        {"version": "1"},
        {"version": 0},
        {"threshold": 0},
        {"engine": ""},
        {"engine": 7},
        {"reason": "\ud800"},
        {"timings_ms": {**WHOLE["timings_ms"], "total": None}},
        {"regions": [{"x": "1"}]},
    ],
    ids=str,
)
def test_an_ok_that_cannot_be_is_none(odd: dict[str, Any]) -> None:
    with answering(Answer(), Answer(body=WHOLE | odd)) as (address, _), Client(address) as drd:
        asked = frame(1, request_id="r", version=1)
        assert drd.inspect(asked).verdict == "OK"
        with pytest.raises(client.UnexpectedAnswer):
            drd.inspect(asked)


@pytest.mark.parametrize("missing", ["version", "engine", "threshold"])
def test_an_ok_without_everything_is_none_over_grpc_too(
    missing: Literal["version", "engine", "threshold"],
) -> None:
    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        for response in ok(request):
            response.result.ClearField(missing)
            yield response

    with serving(Fake(answer)) as address, Client(address) as drd:
        assert [type(outcome.error) for outcome in drd.stream([frame(1)])] == [client.UnexpectedAnswer]


@pytest.mark.parametrize("odd", [{"score": math.nan}, {"score": 0.6, "threshold": 0.5}, {"product": "bolt"}])
def test_an_ok_that_cannot_be_is_none_over_grpc_too(odd: dict[str, Any]) -> None:
    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        for response in ok(request):
            response.result.MergeFrom(pb.InspectResponse(**odd))
            yield response

    with serving(Fake(answer)) as address, Client(address) as drd:
        with pytest.raises(client.UnexpectedAnswer):
            drd.inspect(frame(1))
        assert [type(outcome.error) for outcome in drd.stream([frame(1)])] == [client.UnexpectedAnswer]


def test_products_whose_names_are_no_text_are_unexpected() -> None:
    version = {"version": 1, "state": "READY", "reason": "", "engine": None, "bundle_digest": None}
    products = {"products": [{"name": 7, "versions": [version]}]}

    with (
        answering(Answer(body=products)) as (address, _),
        Client(address) as drd,
        pytest.raises(client.UnexpectedAnswer),
    ):
        drd.products()


def test_only_the_service_itself_can_say_that_it_is_safe_to_repeat() -> None:
    """A proxy may say so after the service has had the frame."""
    problem = {"detail": "the queue is full"}
    soon = {"retry-after": "0"}
    own, foreign = Answer(503, PROBLEM | soon, problem), Answer(503, PAGE | soon, problem)

    with answering(own, Answer()) as (address, heads), Client(address) as drd:
        assert drd.inspect(frame(1, request_id="r")).verdict == "OK"
        assert len(heads) == 2
    with answering(foreign, Answer()) as (address, heads), Client(address) as drd:
        with pytest.raises(client.NotServing) as refused:
            drd.inspect(frame(1, request_id="r"))
        assert len(heads) == 1
    assert refused.value.retry_after is None


def test_a_refused_frame_is_sent_again_as_often_as_asked() -> None:
    full = Answer(429, PROBLEM | {"retry-after": "0"}, {"detail": "the queue is full"})

    with answering(*[full] * 4) as (address, heads), Client(address, retries=2) as drd:
        with pytest.raises(client.Refused):
            drd.inspect(frame(1))
        assert len(heads) == 3


def test_a_refusal_is_known_at_once_where_there_is_no_time_to_repeat() -> None:
    full = Answer(429, PROBLEM | {"retry-after": "30"}, {"detail": "the queue is full"})

    with answering(full) as (address, _), Client(address) as drd, pytest.raises(client.Refused) as refused:
        drd.inspect(frame(1, deadline=2))
    assert refused.value.retry_after == 30


def test_a_refused_frame_is_not_sent_again_before_its_time() -> None:
    asked, full = list[float](), Status(code=8)
    full.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=300_000_000)))

    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        asked.append(time.monotonic())
        if len(asked) > 1:
            yield from ok(request)
        else:
            yield pb.InspectStreamResponse(
                request_id=request.request_id, frame_id=request.frame_id, error=full
            )

    with serving(Fake(answer)) as address, Client(address) as drd:
        (outcome,) = drd.stream([frame(1)])

    assert outcome.answer is not None
    assert asked[1] - asked[0] >= 0.3


@pytest.mark.parametrize("date", ["Mon, 01 Jan 2020 00:00:00 +99999999999999999999", "soon"])
def test_a_time_to_retry_that_is_none_is_not_one(date: str) -> None:
    refusal = Answer(429, PROBLEM | {"retry-after": date}, {"detail": "the queue is full"})

    with answering(refusal) as (address, _), Client(address) as drd:
        (outcome,) = drd.stream([frame(1)])

    assert isinstance(outcome.error, client.Refused)
    assert outcome.error.retry_after is None


def test_an_answer_that_takes_too_long_to_read_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large pictures may: nothing is waited for meanwhile, so that no timer ends it."""
    clock = SimpleNamespace(monotonic=time.monotonic)

    def slow(given: dict[str, Any]) -> client.Answer:
        clock.monotonic = lambda: time.monotonic() + 60
        return read(given)

    read = rest._answer
    monkeypatch.setattr("service.client.aio.time", clock)
    monkeypatch.setattr(rest, "_answer", slow)
    with answering(Answer()) as (address, _), Client(address) as drd, pytest.raises(client.DeadlinePassed):
        drd.inspect(frame(1, request_id="r", deadline=50))


def test_a_message_is_one_printable_line() -> None:
    problem = Answer(400, PROBLEM, {"detail": "no\npicture\x1b[2J\ud800"})

    with (
        answering(problem) as (address, _),
        Client(address) as drd,
        pytest.raises(client.BadInput, match=r"^no picture \[2J $"),
    ):
        drd.inspect(frame(1))


def test_cookies_are_not_kept() -> None:
    with answering(*[Answer(headers={"set-cookie": "a=b"})] * 2) as (address, heads), Client(address) as drd:
        for _ in range(2):
            drd.inspect(frame(1, request_id="r"))

    assert [head["cookie"] for head in heads] == [None, None]


@contextmanager
def sending(content: bytes, products: bytes) -> Iterator[str]:
    """The address of a gRPC server that answers each frame with `content`."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return content

    def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return (content for _ in requests)

    methods: dict[str, Any] = {
        "Inspect": grpc.unary_unary_rpc_method_handler(answer),
        "ListProducts": grpc.unary_unary_rpc_method_handler(lambda *_: products),
        "InspectStream": grpc.stream_stream_rpc_method_handler(answers),
    }
    handlers = [grpc.method_handlers_generic_handler("drd.inspection.v1.InspectionService", methods)]
    with listening(lambda server: server.add_generic_rpc_handlers(handlers)) as address:
        yield address


@pytest.mark.parametrize(
    "content", [b"\x0a\x05ab", b"\x0a\x01\xff", b"\xff"], ids=["cut", "no text", "noise"]
)
def test_what_is_no_message_is_an_error_of_the_client(content: bytes) -> None:
    with sending(b"", content) as address, Client(address) as drd, pytest.raises(client.UnexpectedAnswer):
        drd.products()
    with sending(content, b"") as address, Client(address) as drd:
        with pytest.raises(client.UnexpectedAnswer):
            drd.inspect(frame(1))
        (outcome,) = drd.stream([frame(1)])

    assert isinstance(outcome.error, client.ConnectionLost)


def test_an_error_with_garbled_details_is_unexpected_at_once() -> None:
    garbled = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff")

    def answer(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
        yield pb.InspectStreamResponse(
            request_id=request.request_id,
            frame_id=request.frame_id,
            error=Status(code=8, details=[garbled]),
        )

    with serving(Fake(answer)) as address, Client(address) as drd:
        (outcome,) = drd.stream([frame(1)])

    assert isinstance(outcome.error, client.UnexpectedAnswer)


class Breaking(Fake):
    """As something between ends a call: without the service's details."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(ok)
        self._code, self.asked = code, 0

    def Inspect(  # noqa: N802
        self, request: pb.InspectRequest, context: grpc.ServicerContext
    ) -> pb.InspectResponse:
        self.asked += 1
        context.abort(self._code, "Stream removed")

    def InspectStream(  # noqa: N802
        self, request_iterator: Iterator[pb.InspectRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InspectStreamResponse]:
        next(request_iterator)
        self.asked += 1
        context.abort(self._code, "Stream removed")


@pytest.mark.parametrize("name", ["INTERNAL", "UNAVAILABLE", "CANCELLED"])
def test_a_call_that_breaks_is_not_repeated_and_no_failed_inspection(name: str) -> None:
    """It is unknown whether the frame was inspected."""
    fake = Breaking(grpc.StatusCode[name])
    with serving(fake) as address, Client(address) as drd:
        with pytest.raises(client.ConnectionLost):
            drd.inspect(frame(1))
        assert fake.asked == 1
        (outcome,) = drd.stream([frame(1)])

    assert isinstance(outcome.error, client.ConnectionLost)
    assert fake.asked == 2
