"""One stream of frames: a window of them under way, answered in the order in which they are done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from service.rpc.pb import inspection_pb2 as pb

Answer = Callable[[pb.InspectRequest], Awaitable[pb.InspectStreamResponse]]


class Stream:
    """Reads on only while fewer than `window` are unanswered: the transport's flow control does the rest."""

    def __init__(self, requests: AsyncIterator[pb.InspectRequest], answer: Answer, window: int) -> None:
        self._requests, self._answer = requests, answer
        self._window = asyncio.Semaphore(window)
        self._done = asyncio.Queue[pb.InspectStreamResponse | None]()
        self._reader: asyncio.Task[None] | None = None
        self.stopped = False
        """Whether reading was ended from this side."""

    async def responses(self) -> AsyncIterator[pb.InspectStreamResponse]:
        """Every response, until all requests are answered. To close it early cancels what is under way."""
        everything = asyncio.create_task(self._answer_everything())
        everything.add_done_callback(lambda _: self._done.put_nowait(None))
        try:
            while (response := await self._done.get()) is not None:
                yield response
                self._window.release()
            await everything
        finally:
            everything.cancel()

    def stop_reading(self) -> None:
        """What has been read is still answered."""
        self.stopped = True
        if self._reader is not None:
            self._reader.cancel()

    async def _answer_everything(self) -> None:
        async with asyncio.TaskGroup() as frames:
            self._reader = frames.create_task(self._read(frames))

    async def _read(self, frames: asyncio.TaskGroup) -> None:
        while not self.stopped:  # perhaps before this task could be cancelled
            await self._window.acquire()
            request = await anext(self._requests, None)
            if request is None:
                return
            frames.create_task(self._answer_one(request))

    async def _answer_one(self, request: pb.InspectRequest) -> None:
        self._done.put_nowait(await self._answer(request))
