"""The end of a client: what is in flight ends with it, and nothing of it stays."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from service import client
from service.client import AsyncClient, Frame
from tests.client.conftest import frame
from tests.client.fakes import Fake, ok, serving
from tests.e2e.serving import wait_until
from tests.service.engines import Gate

TURNS = 40
"""Of the event loop: more than what a request takes until it waits for its answer."""

FORGETFUL = """
import sys, threading
from service.client import Client, Frame
drd = Client(sys.argv[1], retries=0)
def camera():
    yield Frame(b"", "tile")
    threading.Event().wait()
if sys.argv[2] == "stream":
    outcomes = drd.stream(camera())
    next(outcomes)
sys.exit(7)
"""


@pytest.mark.parametrize("door", ["http", "grpc"])
@pytest.mark.parametrize("how", ["idle", "stream"])
def test_a_program_that_does_not_close_it_ends_all_the_same(door: str, how: str, free_port: int) -> None:
    command = [sys.executable, "-c", FORGETFUL, f"{door}://127.0.0.1:{free_port}", how]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (ended.returncode, ended.stderr) == (7, "")


@pytest.mark.parametrize("how", ["inspect", "stream"])
def test_what_tasks_wait_for_is_lost(address: str, gate: Gate, how: str) -> None:
    async def close() -> tuple[object, ...]:
        drd = AsyncClient(address)

        async def streamed() -> list[client.Outcome]:
            return [outcome async for outcome in drd.stream([frame(1)])]

        in_flight: asyncio.Task[Any] = asyncio.create_task(
            drd.inspect(frame(1)) if how == "inspect" else streamed()
        )
        await asyncio.to_thread(gate.wait_for_batch)
        await drd.close()
        later = [asyncio.create_task(drd.products()), asyncio.create_task(streamed())]
        async with asyncio.timeout(30):
            return tuple(await asyncio.gather(in_flight, *later, return_exceptions=True))

    gate.shut()
    try:
        errors = asyncio.run(close())
    finally:
        gate.open()

    assert [type(error) for error in errors] == [client.ConnectionLost] * 3


def streaming() -> bool:
    return any(thread.name == "drd-stream" for thread in threading.enumerate())


def test_a_stream_that_was_left_ends_with_it() -> None:
    async def leave(address: str) -> None:
        async with AsyncClient(address) as drd:
            outcomes = drd.stream([frame(1), frame(2)], window=1)
            assert (await anext(outcomes)).answer
            assert streaming()
        await asyncio.to_thread(wait_until, lambda: not streaming())

    with serving(Fake(ok)) as address:
        asyncio.run(leave(address))


def test_a_stream_that_is_cancelled_twice_keeps_no_connection() -> None:
    """As a timeout in a cancelled task group does, while the camera takes a moment to stop."""

    async def use(address: str) -> None:
        answered, stopping, may_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def camera() -> AsyncIterator[Frame]:
            try:
                yield frame(1)
                await asyncio.Event().wait()
            finally:
                stopping.set()
                await may_stop.wait()

        async def follow(drd: AsyncClient) -> None:
            async for outcome in drd.stream(camera()):
                assert outcome.answer
                answered.set()

        async with AsyncClient(address) as drd:
            following = asyncio.create_task(follow(drd))
            await answered.wait()
            assert streaming()
            following.cancel()
            await stopping.wait()
            following.cancel()
            await asyncio.wait({following})
            may_stop.set()
            await asyncio.to_thread(wait_until, lambda: not streaming())

    with serving(Fake(ok)) as address:
        asyncio.run(use(address))


LAST = b"last"


class Silent(asyncio.Protocol):
    """A connection of a service that never answers."""

    def __init__(self, all_closed: list[asyncio.Future[None]]) -> None:
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        all_closed.append(self._closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data == LAST:
            self._transport.write(LAST)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed.set_result(None)


def test_a_request_that_has_just_begun_is_lost_and_its_connection_closed() -> None:
    """At whatever moment: before it is sent, while it connects, or while it waits for the answer."""

    async def close() -> list[object]:
        lost, closed = list[object](), list[asyncio.Future[None]]()
        silent = asyncio.get_running_loop().create_server(lambda: Silent(closed), "127.0.0.1", 0)
        async with asyncio.timeout(30), await silent as server:
            port = server.sockets[0].getsockname()[1]
            for turns in range(TURNS):
                drd = AsyncClient(f"http://127.0.0.1:{port}")
                asked = asyncio.create_task(drd.inspect(frame(1)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await drd.close()
                lost += await asyncio.gather(asked, return_exceptions=True)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LAST)
            await reader.read(len(LAST))  # so the others have been accepted
            writer.close()
            await asyncio.gather(*closed)
        return lost

    assert [type(error) for error in asyncio.run(close())] == [client.ConnectionLost] * TURNS


def test_a_request_that_is_cancelled_while_it_fails_leaves_no_trace(free_port: int) -> None:
    """Such as one whose deadline passes just when the connection is refused."""

    async def cancel() -> list[str]:
        complaints = list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about["message"]))
        async with AsyncClient(f"http://127.0.0.1:{free_port}", retries=0) as drd:
            for turns in range(TURNS):
                asked = asyncio.create_task(drd.inspect(frame(1)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asked.cancel()
                await asyncio.wait({asked})
        gc.collect()  # then tasks whose errors nobody has seen complain
        return complaints

    assert asyncio.run(cancel()) == []
