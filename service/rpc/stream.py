"""One stream of frames: at most a window of them at a time, answered in completion order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from service.rpc.pb import inspection_pb2 as pb

Turn = Callable[[], Awaitable[None]]
"""Returns when the response can be written at once, as all earlier ones are."""
Respond = Callable[[pb.InspectRequest, Turn], Awaitable[pb.InspectStreamResponse]]


class Stream:
    """Reads a request only while fewer than `window` are unanswered; flow control holds back the caller."""

    def __init__(self, requests: AsyncIterator[pb.InspectRequest], respond: Respond, window: int) -> None:
        self._requests, self._respond = requests, respond
        self._window = asyncio.Semaphore(window)
        self._writer = asyncio.Semaphore(1)
        self._done = asyncio.Queue[pb.InspectStreamResponse | None]()
        self._reader: asyncio.Task[None] | None = None
        self._stopped = False
        self.complete = False
        """Whether the caller's last request was read."""

    async def responses(self) -> AsyncGenerator[pb.InspectStreamResponse]:
        """Responses until all requests are answered. Closing it early cancels requests under way."""
        responding = asyncio.create_task(self._respond_to_all())
        responding.add_done_callback(lambda _: self._done.put_nowait(None))
        try:
            while (response := await self._done.get()) is not None:
                yield response
                self._writer.release()
                self._window.release()
            await responding
        finally:
            responding.cancel()

    def stop_reading(self) -> None:
        """Reads no more requests; those already read are still answered."""
        self._stopped = True
        if self._reader is not None:  # it may have been given a request that it has not taken yet
            self._reader.get_loop().call_soon(self._reader.cancel)

    async def _respond_to_all(self) -> None:
        async with asyncio.TaskGroup() as frames:
            self._reader = frames.create_task(self._read(frames))

    async def _read(self, frames: asyncio.TaskGroup) -> None:
        while not self._stopped:  # it may be stopped before this task runs
            await self._window.acquire()
            request = await anext(self._requests, None)
            if request is None:
                self.complete = True
                return
            frames.create_task(self._respond_to(request))

    async def _respond_to(self, request: pb.InspectRequest) -> None:
        its_turn = False

        async def turn() -> None:
            nonlocal its_turn
            if not its_turn:
                await self._writer.acquire()
                its_turn = True

        response = await self._respond(request, turn)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # cut off: nobody takes responses, so no turn would come
            return
        await turn()
        self._done.put_nowait(response)
