"""Limits of connections: slow or oversized requests, unread answers, too many connections. Plain sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from service.http.protocol import REASONS
from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub
from service.settings import AROUND_IMAGE
from tests.bundles import make_bundle
from tests.e2e.serving import Running, serving, wait_until
from tests.service.engines import Gate
from tests.service.images import encoded, plain

CONNECTIONS = 12
LIMITS: dict[str, Any] = {
    "max_connections": CONNECTIONS,
    "max_url_bytes": 300,
    "max_head_bytes": 4000,
    "max_calls": 4,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    return models


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[Running]:
    short: dict[str, Any] = dict.fromkeys(("head_seconds", "receive_seconds", "answer_seconds"), 0.5)
    with serving(models, **LIMITS, **short, idle_seconds=1) as service:
        yield service


@pytest.fixture
def patient(models: Path) -> Iterator[Running]:
    """With limits of size and number only: tests look at requests that are under way."""
    with serving(models, **LIMITS) as service:
        yield service


def answer_to(running: Running, *sent: bytes) -> bytes:
    """Everything received until the connection ends."""
    with running.connected() as connection:
        for part in sent:
            connection.sendall(part)
        return connection.makefile("rb").read()


def is_problem(answer: bytes, status: int) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    names_it = head.startswith(b"HTTP/1.1 %d " % status) and b"application/problem+json" in head
    return names_it and b'"status":%d' % status in body


def refused(running: Running, status: int) -> float:
    """How often the door has ended a connection so."""
    return running.sample("drd_rejected_total", product="unknown", reason=REASONS[status])


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (414, b"GET /" + b"x" * 301 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 4000 + b"\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n"),
        (408, b"GET / HTTP/1.1\r\nHost: x\r\n"),
        (408, b"G"),
        (408, b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"),
        (
            408,
            b"POST /v1/inspect?product=tile HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
        ),
        (
            400,
            b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ),
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, b"\x16\x03\x01 what is this\r\n\r\n"),
    ],
)
def test_heads_and_bodies_are_limited_in_size_and_time(running: Running, status: int, sent: bytes) -> None:
    before = refused(running, status)
    assert is_problem(answer_to(running, sent), status)
    in_the_body = sent.startswith(b"POST") and status == 408  # it counts as a request, of its product
    assert refused(running, status) == before + (not in_the_body)


def test_a_refusal_that_waits_for_an_earlier_answer_is_counted_once(running: Running) -> None:
    before = refused(running, 400)
    nonsense = (b"nonsense\r\n\r\n",) * 5
    answer_to(
        running,
        b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        *nonsense,
    )
    assert refused(running, 400) == before + 1


def test_a_head_that_never_ends_is_cut_off_by_its_size(patient: Running) -> None:
    with patient.connected() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nLong: ")
        wait_until(lambda: in_phase(patient, "HEAD") == 1)
        connection.sendall(b"x" * 3000)
        wait_until(lambda: heads(patient) == [3000])
        connection.sendall(b"x" * 1001)
        assert is_problem(connection.makefile("rb").read(), 431)


def test_the_size_of_a_head_is_limited_for_each_request_anew(patient: Running) -> None:
    """A camera keeps its connection for weeks. A head may come in pieces, too."""
    begin, end = b"GET /health/live HTTP/1.1\r\nHost: x\r\nLong: ", b"x" * 1000 + b"\r\n\r\n"
    with patient.connected() as connection:
        for _ in range(5):
            connection.sendall(begin)
            wait_until(lambda: in_phase(patient, "HEAD") == 1)
            connection.sendall(b"x" * 1000)
            wait_until(lambda: heads(patient) == [1000])
            connection.sendall(end)
            with HTTPResponse(connection) as answer:
                answer.begin()
                assert answer.status == 200
                answer.read()


def test_a_body_that_nobody_reads_is_cut_off_too(running: Running) -> None:
    answer = answer_to(running, b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc")

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_line_ends_do_not_keep_an_idle_connection(running: Running) -> None:
    with running.connected() as connection:
        connection.settimeout(0.1)
        for _ in range(300):
            try:
                connection.sendall(b"\r\n")
                assert connection.recv(100) == b""
                return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("it is still there")


def test_nonsense_behind_a_request_does_not_become_its_answer(running: Running) -> None:
    body = plain(200)
    request = b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)

    answer = answer_to(running, request + body + b"\x00\x01 nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"verdict":"NG"' in answer


def test_nonsense_in_a_request_behind_another_is_refused_in_its_turn(running: Running) -> None:
    body = plain(200)
    request = b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    behind = (
        b"POST /v1/inspect?product=tile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
    )

    answers = answer_to(running, request + body + behind)

    assert answers.startswith(b"HTTP/1.1 200 ")
    assert is_problem(b"HTTP/1.1 " + answers.split(b"HTTP/1.1 ")[2], 400)


def test_nonsense_behind_an_answer_that_has_begun_is_no_part_of_it(patient: Running) -> None:
    received = b""
    with patient.connected() as connection, suppress(ConnectionError):
        connection.sendall(
            b"GET /v1/verdicts/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.sendall(b"nonsense\r\n")
        while part := connection.recv(4096):
            received += part
    assert b"HTTP/1.1" not in received


def test_an_answer_that_is_not_taken_is_dropped(running: Running) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = running.service.http[0]
        connection.connect((address.host, address.port))
        connection.settimeout(30)
        request = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises(ConnectionError):
            connection.sendall(request * 1_000_000)  # more than the kernel buffers


def test_one_connection_too_many_is_refused_unless_another_is_idle(patient: Running) -> None:
    """One that its caller has closed makes no room."""
    with patient.connected():
        wait_until(lambda: in_phase(patient, "IDLE") == 1)
    wait_until(lambda: not held(patient))
    with ExitStack() as open_connections:
        busy = [open_connections.enter_context(patient.connected()) for _ in range(CONNECTIONS)]
        for connection in busy:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        wait_until(lambda: in_phase(patient, "HEAD") == CONNECTIONS)
        assert is_problem(answer_to(patient), 503)
    wait_until(lambda: in_phase(patient, "HEAD") == 0)
    with ExitStack() as open_connections:
        idle = [open_connections.enter_context(patient.connected()) for _ in range(5 * CONNECTIONS)]
        response = httpx.post(f"{patient.url}/v1/inspect?product=tile", content=plain(200), timeout=30)
        assert response.json()["verdict"] == "NG"
        assert idle[0].recv(1) == b""


def in_phase(running: Running, name: str) -> int:
    connections = [vars(each) for each in held(running)]
    return sum(each["phase"].name == name and not each["transport"].is_closing() for each in connections)


def heads(running: Running) -> list[int]:
    """Of each connection, the bytes of a head that goes on."""
    return [vars(each)["_head_bytes"] for each in held(running)]


def held(running: Running) -> list[object]:
    """The HTTP door's connections."""
    door = running.service.http_door
    assert door is not None
    return list(door.server_state.connections)


def test_metadata_of_a_call_is_limited(running: Running) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = InspectionServiceStub(channel)
        request = pb.InspectRequest(image=plain(200), product="tile")
        with pytest.raises(grpc.RpcError) as failure:
            stub.Inspect(request, metadata=(("long", "x" * 8000),), timeout=30)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Inspect(request, timeout=30).verdict == "NG"


def test_answers_count_for_the_limit_of_bytes_until_they_are_read(models: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3)).astype(np.uint8)
    image = encoded(Image.fromarray(noise), "JPEG")
    url, head = (
        "/v1/inspect?product=tile",
        f"Host: x\r\nAccept: image/png\r\nContent-Length: {len(image)}\r\n",
    )
    limit = len(image) + AROUND_IMAGE
    with serving(models, max_queued_bytes=limit, max_image_bytes=len(image)) as running:
        inspector = running.service.inspector
        with running.connected() as caller:
            caller.sendall(f"POST {url} HTTP/1.1\r\n{head}\r\n".encode() + image)
            wait_until(lambda: inspector.admission.bytes > limit)
            others = httpx.post(f"{running.url}{url}", content=plain(200))
            assert (others.status_code, others.headers["retry-after"]) == (429, "1")

            answer = caller.makefile("rb")
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            while (line := answer.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            assert len(answer.read(length)) == length > limit
        wait_until(lambda: inspector.admission.bytes == 0)
        assert httpx.post(f"{running.url}{url}", content=plain(200)).status_code == 200
        with grpc.insecure_channel(running.target) as channel:
            InspectionServiceStub(channel).Inspect(pb.InspectRequest(image=plain(200), product="tile"))
        wait_until(lambda: inspector.admission.bytes == 0)


def test_a_frame_over_grpc_counts_for_the_limit_of_bytes_until_it_is_answered(models: Path) -> None:
    gate, frame = Gate(), pb.InspectRequest(image=plain(200, (256, 256), "BMP"), product="tile")
    size = len(frame.image)
    with (
        serving(models, gate.start, max_queued_bytes=2 * size - 1, max_image_bytes=size) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub = InspectionServiceStub(channel)
        gate.shut()
        first = stub.Inspect.future(frame)
        gate.wait_for_batch()
        with pytest.raises(grpc.RpcError, match="the bytes waiting have reached their limit") as refused:
            stub.Inspect(frame)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        (in_stream,) = stub.InspectStream(iter([frame]))
        assert in_stream.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        gate.open()
        assert first.result(timeout=30).verdict == "NG"
        wait_until(lambda: running.service.inspector.admission.bytes == 0)
        assert stub.Inspect(frame).verdict == "NG"


def test_answers_of_a_stream_that_does_not_read_count_for_the_limit_of_bytes(models: Path) -> None:
    image = encoded(Image.effect_noise((700, 700), 90), "JPEG")
    limit = 9 * len(image)  # their overlays are several times as large
    gate, ended = Gate(), Event()
    no_growing_window = [("grpc.http2.bdp_probe", 0)]  # for gRPC to buffer no more than one or two

    def frames() -> Iterator[pb.InspectRequest]:
        for number in range(8):
            yield pb.InspectRequest(image=image, product="tile", frame_id=str(number), include=["overlay"])
        ended.wait(60)

    with (
        serving(models, gate.start, max_queued_bytes=limit, max_image_bytes=len(image)) as running,
        grpc.insecure_channel(running.target, no_growing_window) as channel,
    ):
        admission = running.service.inspector.admission
        gate.shut()
        answers = InspectionServiceStub(channel).InspectStream(frames())
        wait_until(lambda: running.sample("drd_queue_depth", product="tile") == 8)
        gate.open()
        wait_until(lambda: admission.bytes > limit)
        others = httpx.post(f"{running.url}/v1/inspect?product=tile", content=plain(200))
        assert (others.status_code, others.headers["retry-after"]) == (429, "1")
        assert all(next(answers).result.overlay.data for _ in range(8))
        wait_until(lambda: admission.bytes == 0)
        ended.set()


def test_the_largest_image_is_accepted_in_a_form_and_in_a_message_too(models: Path) -> None:
    image = plain(200)
    size = len(image)
    with (
        serving(models, max_image_bytes=size, max_queued_bytes=size + AROUND_IMAGE) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        form = httpx.post(f"{running.url}/v1/inspect?product=tile", files={"image": image})
        assert form.json()["verdict"] == "NG"
        message = pb.InspectRequest(image=image, product="tile")
        assert InspectionServiceStub(channel).Inspect(message).verdict == "NG"
