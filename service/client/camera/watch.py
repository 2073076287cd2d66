"""A watched folder: the pictures that appear in it, each once it is complete."""

import asyncio
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from service.client.camera.pictures import PictureFile, Stamp, is_picture

_LOOK_SECONDS = 0.02
_GRACE_SECONDS = 2.0
"""An empty or unreadable file may be about to be written: only after this time is it given."""
_FORGET_SECONDS = 600.0
RECHECKS_PER_LOOK = 500
"""How many files that were sent already are checked for a change at each look, in turn."""
UNKNOWN_STAMP = Stamp(0, 0, 0, 0)
"""Of a file about which nothing can be learned."""


@dataclass(slots=True)
class _Known:
    """A file that was sent, or there from the start, and the start of the last look at it."""

    stamp: Stamp
    looked: float


@dataclass(frozen=True, slots=True)
class _Changing:
    """A file first seen with this `stamp` at `first`. `since`: the last look at which it was absent or had
    another. Both are instants of `time.monotonic`.
    """

    stamp: Stamp
    first: float
    since: float


class Watch:
    """Looks from now on. Raises OSError if the folder can't be listed; later, that is said once.

    A picture is complete when unchanged for `settle` seconds. One that was missing for less than ten minutes,
    and comes back unchanged, is not sent again. What stays empty or can't be read is given too: reading it
    tells why, and it counts as not inspected. Looks fifty times a second, also while nobody takes pictures:
    the kernel does not report changes that cameras make on network shares.
    """

    def __init__(self, folder: Path, settle: float, say: Callable[[OSError], None]) -> None:
        self._folder, self._settle, self._say = folder, settle, say
        self._known = OrderedDict[str, _Known]()
        """By file name, those looked at longest ago first."""
        self._changing = dict[str, _Changing]()
        self._gone = dict[str, float]()
        """Known, but missing since that instant."""
        self._complete = self._given = 0
        self._looking = threading.Lock()  # a look may outlive the task that began it
        self._looked = time.monotonic()
        for name in self._listed():
            if (stamp := stamp_of(folder / name)) is not None:
                self._known[name] = _Known(stamp, self._looked)

    def left(self) -> bool:
        """Whether there is a picture, complete or not, that was not given. True if none can be listed."""
        try:
            self.look()
        except OSError:
            return True
        return bool(self._changing) or self._complete > self._given

    async def pictures(self) -> AsyncIterator[PictureFile]:
        ready = asyncio.Queue[PictureFile | None]()
        looking = asyncio.create_task(self._keep_looking(ready))
        looking.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while (picture := await ready.get()) is not None:
                self._given += 1
                yield picture
            await looking  # raises what ended it
        finally:
            looking.cancel()

    async def _keep_looking(self, ready: asyncio.Queue[PictureFile | None]) -> None:
        away = False
        while True:
            try:
                pictures = await asyncio.to_thread(self.look)
            except OSError as error:
                if not away:
                    self._say(error)
                away = True
            else:
                away = False
                for picture in pictures:
                    ready.put_nowait(picture)
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> list[PictureFile]:
        """What has become complete, in the order of modification. OSError if the folder can't be listed."""
        with self._looking:
            return self._look()

    def _look(self) -> list[PictureFile]:
        start = time.monotonic()
        listed = self._listed()
        again = list(islice(self._known, RECHECKS_PER_LOOK))
        for name in again:
            self._known.move_to_end(name)
        new = [name for name in listed if name not in self._known]
        changing, complete = dict[str, _Changing](), list[str]()
        for name in listed & {*new, *again, *self._changing, *self._gone}:
            change = self._change(name, start)
            if change is None:
                continue
            changing[name] = change
            if self._is_complete(name, change):
                complete.append(name)
        self._note_missing(listed, start)
        complete.sort(key=lambda name: (changing[name].stamp, name))
        pictures = [
            PictureFile(self._folder / name, name, changing[name].since, changing[name].stamp)
            for name in complete
        ]
        for name in complete:
            self._known[name] = _Known(changing.pop(name).stamp, start)
        self._complete += len(pictures)
        self._changing, self._looked = changing, start
        return pictures

    def _listed(self) -> set[str]:
        with os.scandir(self._folder) as entries:  # faster than Path: there may be many files
            names = [entry.name for entry in entries]
        return {name for name in names if name in self._known or is_picture(name)}

    def _change(self, name: str, start: float) -> _Changing | None:
        """None: it is as it was when sent, or was removed, or is a folder."""
        stamp = stamp_of(self._folder / name)
        known, before = self._known.get(name), self._changing.get(name)
        if stamp is None or (known and stamp == UNKNOWN_STAMP):  # that need not be another picture
            return None
        if known is not None and stamp == known.stamp:
            known.looked = start
            return None
        if before is not None and stamp == before.stamp:
            return before
        since = self._looked if known is None or before is not None else known.looked
        return _Changing(stamp, time.monotonic(), since)

    def _is_complete(self, name: str, change: _Changing) -> bool:
        """Or has had its time to become so."""
        waited = time.monotonic() - change.first
        if waited < self._settle:
            return False
        return waited >= _GRACE_SECONDS or (
            change.stamp.size > 0 and can_be_read(self._folder / name, change.stamp)
        )

    def _note_missing(self, listed: set[str], start: float) -> None:
        missing = self._known.keys() - listed
        for name in missing:
            self._known[name].looked = start
        if not listed:  # an empty folder does not tell that pictures were removed: a share may be away
            return
        self._gone = {name: self._gone.get(name, start) for name in missing}
        for name, since in list(self._gone.items()):
            if start - since >= _FORGET_SECONDS:
                del self._known[name], self._gone[name]


def can_be_read(path: Path, stamp: Stamp) -> bool:
    """On Windows a file can't be while its writer shares it with nobody, and its time changes when that ends:
    only the open file tells whether it is still what was seen."""
    try:
        with path.open("rb") as file:
            return Stamp.of(os.fstat(file.fileno())) == stamp
    except OSError:
        return False


def stamp_of(path: Path) -> Stamp | None:
    """None: it was removed, or is a folder."""
    try:
        facts = path.stat()
    except OSError:
        try:
            facts = path.lstat()
        except FileNotFoundError:
            return None
        except OSError:
            return UNKNOWN_STAMP
        return Stamp.of(facts)._replace(size=0)
    if stat.S_ISDIR(facts.st_mode):
        return None
    return Stamp.of(facts)
