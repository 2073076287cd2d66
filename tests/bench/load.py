"""The load: HTTP/1.1 over plain sockets, or gRPC, from one process on uvloop. Prints one line of JSON.

Closed loop: N clients, each with one request under way. Open loop: requests at a rate, whatever happens
to those before, on as many connections as it takes.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc.aio
import uvloop

from service.rpc.pb import inspection_pb2 as pb
from service.rpc.pb.inspection_pb2_grpc import InspectionServiceStub

if TYPE_CHECKING:
    from service.rpc.pb.inspection_pb2_grpc import InspectionServiceAsyncStub


Ask = Callable[[], Awaitable[int]]
"""Sends the request and gives the status of its answer: 200 where a door has none."""


@dataclass
class Tally:
    """What came back: seconds per status."""

    times: dict[int, list[float]] = field(default_factory=dict)
    late: int = 0
    """Answers 200 that came after the deadline."""

    def note(self, status: int, seconds: float, deadline: float | None) -> None:
        self.times.setdefault(status, []).append(seconds)
        self.late += status == 200 and deadline is not None and seconds > deadline

    def report(self, seconds: float) -> dict[str, object]:
        return {
            "seconds": seconds,
            "late": self.late,
            "statuses": {
                status: {"count": len(times), "p50": _at(times, 0.5), "p99": _at(times, 0.99)}
                for status, times in sorted(self.times.items())
            },
        }


def _at(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


class Connection(asyncio.Protocol):
    """One request at a time; `ask` gives its status when all of the answer is there."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._buffer = bytearray()

    @property
    def ended(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():  # sent away before it could ask
            self._answer.set_result(0)
            return self._answer
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(self._buffer) >= head + 4 + length:
            status = int(self._buffer[9:12])
            self._buffer.clear()
            assert self._answer is not None
            self._answer.set_result(status)


async def connect(target: str) -> Connection:
    loop = asyncio.get_running_loop()
    if target.startswith("unix:"):
        return (await loop.create_unix_connection(Connection, target.removeprefix("unix:")))[1]
    host, _, port = target.rpartition(":")
    return (await loop.create_connection(Connection, host, int(port)))[1]


async def steadily(asks: Sequence[Ask], seconds: float) -> dict[str, object]:
    """Each client has one request under way. Counted are the answers of so many seconds in which all of them
    are at it, beginning when each has had one."""
    tally, begins, ends, missing = Tally(), math.inf, math.inf, len(asks)

    async def client(ask: Ask) -> None:
        nonlocal begins, ends, missing
        await ask()
        missing -= 1
        if not missing:
            begins = time.monotonic()
            ends = begins + seconds
        while (asked := time.monotonic()) < ends:
            status, answered = await ask(), time.monotonic()
            if begins < answered <= ends:
                tally.note(status, answered - asked, None)

    await asyncio.gather(*map(client, asks))
    return tally.report(seconds)


async def closed(target: str, request: bytes, clients: int, seconds: float) -> dict[str, object]:
    connections = [await connect(target) for _ in range(clients)]
    return await steadily([partial(connection.ask, request) for connection in connections], seconds)


async def closed_grpc(
    target: str, request: pb.InspectRequest, clients: int, seconds: float, *, stream: bool
) -> dict[str, object]:
    """In calls of their own or in one stream per client, each on its own connection."""

    def asked_in_calls(stub: "InspectionServiceAsyncStub") -> Ask:
        async def ask() -> int:
            await stub.Inspect(request)
            return 200

        return ask

    def asked_in_a_stream(stub: "InspectionServiceAsyncStub") -> Ask:
        call = stub.InspectStream()

        async def ask() -> int:
            await call.write(request)
            await call.read()
            return 200

        return ask

    asked = asked_in_a_stream if stream else asked_in_calls
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target)) for _ in range(clients)
        ]
        return await steadily([asked(InspectionServiceStub(channel)) for channel in channels], seconds)


async def opened(
    target: str, request: bytes, rate: float, seconds: float, deadline: float | None
) -> dict[str, object]:
    idle = [await connect(target) for _ in range(64)]
    tally, tasks = Tally(), set[asyncio.Task[None]]()

    async def one(asked: float) -> None:
        while idle and idle[-1].ended:  # idle for too long
            idle.pop()
        try:
            connection = idle.pop() if idle else await connect(target)
        except OSError:
            tally.note(0, time.monotonic() - asked, deadline)
            return
        tally.note(await connection.ask(request), time.monotonic() - asked, deadline)
        idle.append(connection)

    started = time.monotonic()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    elapsed = time.monotonic() - started
    await asyncio.gather(*tasks)
    return tally.report(elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("image", type=Path)
    parser.add_argument("--product", default="bench")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--deadline-ms", type=int)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--door", choices=("raw", "multipart", "grpc", "stream"), default="raw")
    given = parser.parse_args()
    body, multipart = given.image.read_bytes(), given.door == "multipart"
    request = _request(body, given.product, given.deadline_ms, multipart)
    if given.door in ("grpc", "stream"):
        message = pb.InspectRequest(image=body, product=given.product)
        work = closed_grpc(given.target, message, given.clients, given.seconds, stream=given.door == "stream")
    elif given.rate:
        deadline = given.deadline_ms and given.deadline_ms / 1000
        work = opened(given.target, request, given.rate, given.seconds, deadline)
    else:
        work = closed(given.target, request, given.clients, given.seconds)
    print(json.dumps(uvloop.run(work)))


def _request(image: bytes, product: str, deadline_ms: int | None, multipart: bool) -> bytes:
    kind = b"image/jpeg"
    if multipart:
        kind = b"multipart/form-data; boundary=frontier"
        part = b'--frontier\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        image = part + b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--frontier--\r\n"
    deadline = b"X-Deadline-Ms: %d\r\n" % deadline_ms if deadline_ms else b""
    head = b"POST /v1/inspect?product=%s HTTP/1.1\r\nHost: bench\r\n%s" % (product.encode(), deadline)
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(image)) + image


if __name__ == "__main__":
    main()
