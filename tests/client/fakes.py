"""Services that answer as a test wants."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socket import create_server

import grpc

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import (
    InspectionServiceServicer,
    add_InspectionServiceServicer_to_server,
)

Answer = Callable[[pb.InspectRequest], Iterable[pb.InspectStreamResponse]]


class Fake(InspectionServiceServicer):
    """Gives the answers of a test."""

    def __init__(self, answer: Answer, connects_seconds: float = 0.0) -> None:
        self._answer, self._connects_seconds = answer, connects_seconds
        self.left_ms = list[float]()
        """Of each frame and each call."""
        self.streams = 0

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
        self.streams += 1
        for request in request_iterator:
            self.left_ms.append(request.deadline_ms)
            yield from self._answer(request)


def ok(request: pb.InspectRequest) -> Iterator[pb.InspectStreamResponse]:
    result = pb.InspectResponse(
        request_id=request.request_id,
        frame_id=request.frame_id,
        product=request.product,
        version=1,
        engine="onnx-f32",
        verdict="OK",
        threshold=0.5,
    )
    yield pb.InspectStreamResponse(request_id=result.request_id, frame_id=result.frame_id, result=result)


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Its address."""
    with listening(lambda server: add_InspectionServiceServicer_to_server(fake, server)) as address:
        yield address


@contextmanager
def listening(add: Callable[[grpc.Server], object]) -> Iterator[str]:
    """The address of a server that has the service which `add` gives it."""
    server = grpc.server(ThreadPoolExecutor(4))
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def answering(answer: bytes, after: float = 0, note: Callable[[bytes], object] = len) -> Iterator[str]:
    """The URL of what gives one HTTP request this answer, `after` seconds, and notes the request's head."""

    def serve() -> None:
        connection, _ = door.accept()
        with connection, connection.makefile("rb") as request:
            head = b"".join(iter(request.readline, b"\r\n"))
            body = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            request.read(int(body[1]) if body else 0)
            note(head)
            threading.Event().wait(after)
            connection.sendall(answer)

    with create_server(("127.0.0.1", 0)) as door, ThreadPoolExecutor(1) as pool:
        door.settimeout(60)
        served = pool.submit(serve)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        served.result()
