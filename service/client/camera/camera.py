"""Sends pictures at a given rate and reports the outcome of each."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from service.client.aio import AsyncClient
from service.client.camera.pictures import PictureFile
from service.client.errors import ClientError
from service.client.values import Frame, Outcome, Part

_MAX_ID_LENGTH = 128


class Unreadable(ClientError):
    """The file could not be read: there was nothing to send."""


@dataclass
class Pace:
    """Open loop: the n-th picture is due at n / rate seconds, however long earlier ones take."""

    rate: float | None
    """Pictures per second; None: as fast as the window allows."""
    behind: float = 0.0
    """Seconds by which the last picture was sent late, and the largest such delay."""
    max_behind: float = 0.0
    _due: float | None = None

    async def turn(self, stopped: asyncio.Event) -> float:
        """Waits until the next picture is due and returns that instant. Returns early when stopped."""
        now = time.monotonic()
        if self.rate is None:
            return now
        self._due = now if self._due is None else self._due + 1 / self.rate
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), max(0.0, self._due - now))
        self.behind = max(0.0, time.monotonic() - self._due)
        self.max_behind = max(self.max_behind, self.behind)
        return self._due

    @property
    def kept(self) -> bool:
        """Whether every picture was sent before the next one was due."""
        return self.rate is None or self.max_behind < 1 / self.rate


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture and its outcome. `number` counts from 1."""

    number: int
    path: Path
    outcome: Outcome

    @property
    def file(self) -> str:
        return _readable(self.path)


@dataclass
class Camera:
    """One run. Once `stopped` is set, it sends no more pictures and waits for those in flight."""

    client: AsyncClient
    product: str
    version: int | None
    include: Collection[Part]
    deadline: float | None
    window: int
    pace: Pace
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    """Whether there were no more pictures, or `count` was reached."""
    dropped: bool = False
    """Whether the stop kept a picture from being sent."""
    _under_way: dict[str, tuple[int, Path]] = field(default_factory=dict)
    """By request id: the same picture may be under way twice."""
    _unread: asyncio.Queue[Sent] = field(default_factory=asyncio.Queue)

    async def run(self, pictures: AsyncIterator[PictureFile], count: int | None) -> AsyncGenerator[Sent]:
        """Sends at most `count` pictures, and yields each as soon as its outcome is known."""
        outcomes = self.client.stream(self._frames(pictures, count), self.window)
        coming = asyncio.ensure_future(anext(outcomes, None))
        unread = asyncio.ensure_future(self._unread.get())
        try:
            while True:
                await asyncio.wait({coming, unread}, return_when=asyncio.FIRST_COMPLETED)
                if unread.done():
                    yield unread.result()
                    unread = asyncio.ensure_future(self._unread.get())
                elif (outcome := coming.result()) is not None:
                    number, path = self._under_way.pop(outcome.frame.request_id)
                    yield Sent(number, path, outcome)
                    coming = asyncio.ensure_future(anext(outcomes, None))
                elif self._unread.empty():
                    return
        finally:
            coming.cancel()
            unread.cancel()
            await asyncio.wait({coming, unread})
            await outcomes.aclose()

    async def _frames(self, pictures: AsyncIterator[PictureFile], count: int | None) -> AsyncIterator[Frame]:
        number = 0
        while number != count:
            if (picture := await self._next(pictures)) is None:
                return
            number += 1
            frame_id = _frame_id(picture.name)
            try:
                image = await asyncio.to_thread(picture.read)
            except (OSError, ValueError) as error:  # ValueError: a listed name that is not a valid path
                self._unread.put_nowait(_unread(number, picture, frame_id, self.product, error))
                continue
            due = await self.pace.turn(self.stopped)
            if self.stopped.is_set():
                self.dropped = True
                return
            since = picture.since or due
            frame = Frame(
                image, self.product, frame_id, self.version, self.include, self.deadline, since=since
            )
            self._under_way[frame.request_id] = (number, picture.path)
            yield frame
        self.ended = True

    async def _next(self, pictures: AsyncIterator[PictureFile]) -> PictureFile | None:
        """The next picture; None if there is none or the camera is stopped while waiting."""
        coming = asyncio.ensure_future(anext(pictures, None))
        stopping = asyncio.create_task(self.stopped.wait())
        await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not coming.done():
            coming.cancel()
            return None
        picture = coming.result()
        self.ended = picture is None
        self.dropped = picture is not None and self.stopped.is_set()
        return None if self.dropped else picture


def _unread(number: int, picture: PictureFile, frame_id: str, product: str, error: Exception) -> Sent:
    frame = Frame(b"", product, frame_id)
    why = (isinstance(error, OSError) and error.strerror) or error
    reason = Unreadable(f"{_readable(picture.path)}: {why}")
    return Sent(number, picture.path, Outcome(frame, None, reason, 0.0))


def _frame_id(name: str) -> str:
    """The picture's name, escaped to printable ASCII, and only its end if too long."""
    return quote(os.fsencode(name), safe="/ !#$&'()+,;=@[]{}~")[-_MAX_ID_LENGTH:]


def _readable(path: Path) -> str:
    """The path as valid UTF-8: file names need not be."""
    return str(path).encode(errors="backslashreplace").decode()
