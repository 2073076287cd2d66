"""The client for programs without an event loop: runs AsyncClient in a thread of its own."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self, Unpack

from anyio.from_thread import start_blocking_portal

from service.client.aio import AsyncClient, Options
from service.client.values import Answer, Frame, Outcome, Product


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

    def inspect(self, frame: Frame) -> Answer:
        """The verdict on one frame; raises ClientError if there is none."""
        return self._portal.call(self._client.inspect, frame)

    def stream(self, frames: Iterable[Frame], window: int = 16) -> Iterator[Outcome]:
        """Yields the outcome of each frame as soon as it is known. `frames` is read in another thread."""
        outcomes = self._client.stream(frames, window)

        async def following() -> Outcome | None:
            return await anext(outcomes, None)

        try:
            while (outcome := self._portal.call(following)) is not None:
                yield outcome
        finally:
            if not self._closed:  # closing the client ends its streams
                self._portal.call(outcomes.aclose)

    def products(self) -> tuple[Product, ...]:
        """Every version of every product, in any state."""
        return self._portal.call(self._client.products)

    def close(self) -> None:
        self._closed = True
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
