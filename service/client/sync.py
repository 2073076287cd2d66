"""The client for programs without an event loop: runs AsyncClient in a thread of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from anyio.from_thread import start_blocking_portal

from service.client.aio import AsyncClient, Options
from service.client.errors import ConnectionLost
from service.client.values import Answer, Frame, Outcome, Product

_T = TypeVar("_T")


class Client:
    """As AsyncClient, see there. Any number of threads may share one."""

    def __init__(self, address: str, **options: Unpack[Options]) -> None:
        async def open_client() -> AsyncClient:
            return AsyncClient(address, **options)

        self._closed = False
        self._under_way = set[asyncio.Future[Any]]()
        with ExitStack() as opened:
            self._portal = opened.enter_context(start_blocking_portal(name="drd-client"))
            self._client = self._portal.call(open_client)
            opened.callback(self._portal.call, self._end)
            self._opened = opened.pop_all()

    def inspect(self, frame: Frame) -> Answer:
        """The verdict on one frame; raises ClientError if there is none."""
        return self._call(lambda: self._client.inspect(frame))

    def stream(self, frames: Iterable[Frame], window: int = 16) -> Iterator[Outcome]:
        """Yields the outcome of each frame as soon as it is known. `frames` is read in another thread."""
        outcomes = self._client.stream(frames, window)
        coming: asyncio.Future[Outcome | None] | None = None

        def following() -> Awaitable[Outcome | None]:
            nonlocal coming
            coming = asyncio.ensure_future(anext(outcomes, None))
            return coming

        async def leave() -> None:
            if coming is not None:  # it goes on if the caller was interrupted, as by Ctrl-C
                coming.cancel()
                await asyncio.wait({coming})
            await outcomes.aclose()

        try:
            while (outcome := self._call(following)) is not None:
                yield outcome
        finally:
            if not self._closed:  # closing the client ends its streams
                self._portal.call(leave)

    def products(self) -> tuple[Product, ...]:
        """Every version of every product, in any state."""
        return self._call(self._client.products)

    def close(self) -> None:
        """What other threads are waiting for, or ask later, is ConnectionLost; their streams end by it."""
        self._closed = True
        self._opened.close()

    def _call(self, begin: Callable[[], Awaitable[_T]]) -> _T:
        async def end_with_the_client() -> _T:
            work = asyncio.ensure_future(begin())
            self._under_way.add(work)
            try:
                return await work
            except asyncio.CancelledError:
                if self._closed:
                    raise ConnectionLost("the client was closed meanwhile") from None
                raise
            finally:
                self._under_way.discard(work)

        try:
            return self._portal.call(end_with_the_client)
        except RuntimeError:
            if self._closed:  # the thread does not run any more
                raise ConnectionLost("the client is closed") from None
            raise

    async def _end(self) -> None:
        if under_way := set(self._under_way):
            for work in under_way:
                work.cancel()
            await asyncio.wait(under_way)
        await self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
