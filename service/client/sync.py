"""The client for programs without an event loop: runs AsyncClient in a thread of its own."""

import asyncio
import atexit
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self, TypeVar, Unpack

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
        with ExitStack() as opened:
            self._portal = opened.enter_context(start_blocking_portal(name="drd-client"))
            self._client = self._portal.call(open_client)
            opened.callback(self._portal.call, self._client.close)
            self._opened = opened.pop_all()
        atexit.register(self.close)  # without it, a program that forgot would hang at its end

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
            with suppress(ConnectionLost):  # closing the client ends its streams
                self._call(leave)

    def products(self) -> tuple[Product, ...]:
        """Every version of every product, in any state."""
        return self._call(self._client.products)

    def close(self) -> None:
        """What other threads wait for, or ask later, raises ConnectionLost; their streams raise it, too."""
        self._closed = True
        atexit.unregister(self.close)
        self._opened.close()

    def _call(self, begin: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return self._portal.call(begin)
        except RuntimeError:
            if self._closed:  # the thread does not run any more
                raise ConnectionLost("the client is closed") from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
