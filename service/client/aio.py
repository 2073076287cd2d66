"""The asynchronous client, for either door."""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, get_args

from service.client import errors
from service.client.address import Address, Credentials
from service.client.door import Door, as_bad_input
from service.client.rest import RestDoor
from service.client.rpc import RpcDoor
from service.client.rpc_stream import RpcStreamDoor
from service.client.threads import in_own_thread
from service.client.values import Answer, Frame, Outcome, Product, Verdict

_T = TypeVar("_T")
_FIRST_WAIT = 0.05
"""Seconds before the first retry of a failed connection; each further retry waits twice as long."""


class Options(TypedDict, total=False):
    """Credentials, deadline and retries."""

    token: str | None
    """Sent as `Authorization: Bearer …`."""
    ca: Path | None
    """PEM: certificate authorities for the service's certificate; None: the system's."""
    certificate: tuple[Path, Path] | None
    """PEM: the client's certificate and its key, if the service asks for one."""
    deadline: float
    """Seconds, retries included, for frames without a deadline of their own; default 10."""
    retries: int
    """How often a frame is sent again where that is safe; default 3."""


class AsyncClient:
    """Create it in a running event loop; `address` selects the door.

    http://HOST:PORT, https://…, http+unix:PATH: REST. grpc://HOST:PORT, grpcs://…, grpc+unix:PATH: gRPC.
    Raises ValueError for another address, an invalid token or option, OSError for a certificate that can't be
    used.
    """

    def __init__(self, address: str, **options: Unpack[Options]) -> None:
        self._address = Address.parse(address)
        self._credentials = Credentials(options.get("token"), options.get("ca"), options.get("certificate"))
        self._deadline, self._retries = options.get("deadline", 10.0), options.get("retries", 3)
        if not 0 < self._deadline < math.inf:  # nor for NaN
            raise ValueError(f"deadline is {self._deadline}: it must be a number of seconds above 0")
        if self._retries < 0:
            raise ValueError(f"retries is {self._retries}: it can't be negative")
        self._closed = False
        self._tasks = set[asyncio.Task[Any]]()
        """Frames of `inspect`, and streams: they end with the client."""
        door = RpcDoor if self._address.door == "grpc" else RestDoor
        self._door: RpcDoor | RestDoor = door(self._address, self._credentials)

    async def inspect(self, frame: Frame) -> Answer:
        """The verdict on one frame; raises ClientError if there is none."""
        return await self._until_closed(self._start(self._inspect(self._door, frame, _start_of(frame))))

    async def stream(
        self, frames: AsyncIterable[Frame] | Iterable[Frame], window: int = 16
    ) -> AsyncGenerator[Outcome]:
        """Yields the outcome of each frame as soon as it is known; at most `window` frames are in flight.

        Over gRPC all frames share one InspectStream, which is reopened when it ends; request ids in flight
        must differ. Over REST each frame is a request. What `frames` raises is raised after the outcomes of
        the frames before.
        """
        if window < 1:
            raise ValueError(f"window is {window}: at least one frame must be in flight")
        grpc = self._address.door == "grpc"
        door: Door = RpcStreamDoor(self._address, self._credentials) if grpc else self._door
        outcomes = asyncio.Queue[Outcome | None]()
        places = asyncio.Semaphore(window)

        async def follow(frame: Frame) -> None:
            outcomes.put_nowait(await self._outcome(door, frame))

        async def feed() -> Exception | None:
            """Returns what `frames` raised, once earlier frames have their outcomes."""
            source = aiter(frames) if isinstance(frames, AsyncIterable) else _in_thread(frames)
            try:
                async with asyncio.TaskGroup() as in_flight:
                    try:
                        while await places.acquire() and (frame := await anext(source, None)) is not None:
                            in_flight.create_task(follow(frame))
                    except Exception as error:  # noqa: BLE001
                        return error
            finally:
                if grpc:
                    await door.close()
            return None

        feeding = self._start(feed())
        feeding.add_done_callback(lambda _: outcomes.put_nowait(None))
        try:
            while (outcome := await outcomes.get()) is not None:
                yield outcome
                places.release()
            if (error := await self._until_closed(feeding)) is not None:
                raise error
        except BaseExceptionGroup as group:  # what no ClientError covers, of one frame
            raise group.exceptions[0] from None
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})

    async def products(self) -> tuple[Product, ...]:
        """Every version of every product, in any state."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._until_closed(self._start(self._door.products()))
        except TimeoutError:
            raise errors.DeadlinePassed(f"no answer within {self._deadline:g} s") from None

    async def close(self) -> None:
        """What is in flight, or asked later, raises ConnectionLost: a stream after the outcomes so far."""
        self._closed = True
        if tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._door.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _outcome(self, door: Door, frame: Frame) -> Outcome:
        since = _start_of(frame)
        try:
            answer, error = await self._inspect(door, frame, since), None
        except errors.ClientError as failure:
            answer, error = None, failure
        return Outcome(frame, answer, error, time.monotonic() - since)

    async def _inspect(self, door: Door, frame: Frame, since: float) -> Answer:
        """The answer, if it comes within the deadline: a late one is discarded."""
        budget = self._deadline if frame.deadline is None else frame.deadline
        with as_bad_input():
            ends = since + budget
            if not math.isfinite(ends):  # asyncio.timeout can't take it
                raise ValueError(f"a deadline of {budget} s after {since} is not finite")
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                answer = await self._attempts(door, frame, ends)
        except TimeoutError:
            answer = None
        if answer is None or time.monotonic() > ends:
            raise errors.DeadlinePassed(f"no answer within {1000 * budget:g} ms")
        return _checked(answer, frame)

    async def _until_closed(self, task: asyncio.Task[_T]) -> _T:
        """What it returns; ConnectionLost if the client is closed, now or meanwhile."""
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if self._closed and own is not None and not own.cancelling():  # `close` has cancelled it
                raise errors.ConnectionLost("the client is closed") from None
            raise

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that ends with the client."""
        task = asyncio.create_task(work)
        if self._closed:
            task.cancel()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _attempts(self, door: Door, frame: Frame, ends: float) -> Answer:
        retry = 0
        while True:
            try:
                return await door.inspect(frame, ends)
            except (errors.Refused, errors.Unreachable) as error:
                wait = _retry_delay(error, retry)
                if wait is None or retry == self._retries or time.monotonic() + wait >= ends:
                    raise
            await asyncio.sleep(wait)
            retry += 1


def _start_of(frame: Frame) -> float:
    return time.monotonic() if frame.since is None else frame.since


def _retry_delay(error: errors.Refused | errors.Unreachable, retry: int) -> float | None:
    """Seconds until a retry; None if the service gave no time for one."""
    asked = error.retry_after if isinstance(error, errors.Refused) else _FIRST_WAIT * 2**retry
    # With random jitter, so that not all callers retry at the same moment.
    return None if asked is None else asked * random.uniform(1, 1.25)


def _checked(answer: Answer, frame: Frame) -> Answer:
    """Returns `answer` if it belongs to `frame` and agrees with itself; UnexpectedAnswer otherwise."""
    if answer.verdict not in get_args(Verdict):
        raise errors.UnexpectedAnswer(f"{answer.verdict!r} is not a verdict that this client knows")
    request_id = frame.request_id or answer.request_id  # the service's, where the frame has none
    if (answer.request_id, answer.frame_id) != (request_id, frame.frame_id):
        raise errors.UnexpectedAnswer(
            f"the answer to {frame.frame_id!r} is that of another frame, or a proxy replaced X-Request-Id"
        )
    if (answer.product, answer.version) != (frame.product, frame.version or answer.version):
        raise errors.UnexpectedAnswer(f"the answer is that of {answer.product} version {answer.version}")
    if not (0 <= answer.score <= 1 and 0 < answer.threshold <= 1):  # nor for NaN
        raise errors.UnexpectedAnswer(f"{answer.score} is not a score, or {answer.threshold} no threshold")
    if not (answer.version > 0 and answer.engine):  # over gRPC, what is missing is 0 or empty
        raise errors.UnexpectedAnswer("the answer does not say which version or engine gave it")
    if answer.verdict == "OK" and answer.score > answer.threshold:
        raise errors.UnexpectedAnswer(f"OK can't be, with {answer.score} over {answer.threshold}")
    return answer


async def _in_thread(frames: Iterable[Frame]) -> AsyncIterator[Frame]:
    """Iterates in a thread: `frames` may block, as cameras do."""
    source = iter(frames)
    while (frame := await in_own_thread(next, source, None)) is not None:
        yield frame
