"""Sources of pictures: files and folders, or a list on standard input. (A watched folder is in `watch`.)"""

import asyncio
import errno
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_MAX_BYTES = 1 << 30
"""No service takes a larger picture, and reading it could exhaust the memory."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
LISTED = Path("-")


class Stamp(NamedTuple):
    """Tells a file from what it was before, or from another of the same name.

    With the inode and the time of its change, since a copy may keep the time of modification: better to send
    a picture again, as after a chmod, than never.
    """

    modified: int
    size: int
    """0: nothing to send (empty, no regular file, or a link that leads nowhere)."""
    inode: int
    changed: int

    @staticmethod
    def of(facts: os.stat_result) -> "Stamp":
        changed = facts.st_ctime_ns
        if sys.platform == "win32":  # os.stat gives the creation's, os.fstat from 3.12 on the change's
            changed = getattr(facts, "st_birthtime_ns", changed)
        return Stamp(facts.st_mtime_ns, facts.st_size, facts.st_ino, changed)


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One to be sent; `name` as the run shows it."""

    path: Path
    name: str
    since: float | None = None
    """An instant of `time.monotonic` at which it was not there yet, or not complete; None: when it is due."""
    stamp: Stamp | None = None
    """Of the file that is meant, if another may take its name before it is read."""

    def read(self) -> bytes:
        """OSError also for what can't be a picture: reading it could fail badly, or wait for ever."""
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        with self.path.open("rb") as file:
            before = Stamp.of(os.fstat(file.fileno()))
            if before.size > _MAX_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            try:
                image = file.read()
            except MemoryError:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
            after = Stamp.of(os.fstat(file.fileno()))
        if self.stamp not in (None, before) or (before.modified, before.size) != (after.modified, after.size):
            raise OSError(errno.ESTALE, "Replaced or changed before it could be read")
        if not image:
            raise OSError(errno.EINVAL, "The file is empty")
        return image


def is_picture(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def found(source: Path) -> list[PictureFile]:
    """A file, or all pictures in and below a folder, by name. OSError if there are none.

    OSError also if a folder can't be read: the pictures in it would be missing unnoticed.
    """
    try:
        mode = source.stat().st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source} is missing") from error
    if not stat.S_ISDIR(mode):
        return [PictureFile(source, source.name)]
    pictures = [PictureFile(path, path.relative_to(source).as_posix()) for path in sorted(_below(source))]
    if not pictures:
        raise FileNotFoundError(f"no pictures in {source}")
    return pictures


def _below(folder: Path) -> Iterator[Path]:
    """Each folder once, though links may lead to it again, or in a circle.

    A link that leads nowhere counts as a picture whatever its name: it may have led to a folder of them.
    """
    visited = {os.path.realpath(folder)}
    for top, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        place = Path(top)
        real = {name: os.path.realpath(place / name) for name in sorted(folders)}
        folders.clear()
        for name, path in real.items():
            if path not in visited:
                visited.add(path)
                folders.append(name)
        for name in names:
            if is_picture(name) or ((place / name).is_symlink() and not (place / name).exists()):
                yield place / name


def _fail(error: OSError) -> None:
    raise error


async def repeated(pictures: Iterable[PictureFile], times: int) -> AsyncIterator[PictureFile]:
    """`times` 0: for ever."""
    once, round_ = tuple(pictures), 0
    while not times or round_ < times:
        for picture in once:
            yield picture
        round_ += 1


async def listed() -> AsyncIterator[PictureFile]:
    """The paths on standard input, one per line, as they come."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | OSError]()

    def read() -> None:
        end: str | OSError = ""
        # File names need not be valid text: decode them as Python does elsewhere.
        encoding, errors = sys.stdin.encoding, "surrogateescape"
        try:
            with open(sys.stdin.fileno(), encoding=encoding, errors=errors, closefd=False) as names:
                for line in names:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
        except OSError as error:  # such as a folder as standard input
            end = error
        loop.call_soon_threadsafe(lines.put_nowait, end)

    threading.Thread(target=read, daemon=True).start()  # a daemon: it may block after a stop
    while line := await lines.get():
        if isinstance(line, OSError):
            raise line
        if name := line.rstrip("\r\n"):
            yield PictureFile(Path(name), Path(name).name)
