"""Sources of pictures: files and folders, a watched folder, or a list on standard input."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
_LOOK_SECONDS = 0.02
_FORGET_SECONDS = 600.0
LISTED = Path("-")

Stamp = tuple[int, int]
"""A file's modification time in ns, and its size in bytes."""


@dataclass(frozen=True, slots=True)
class Picture:
    path: Path
    name: str
    since: float | None = None
    """The instant of `time.monotonic` at which it was first seen complete; None: when it is due."""


def found(source: Path) -> list[Picture]:
    """A file, or all pictures in and below a folder, by name. FileNotFoundError if there are none."""
    if source.is_file():
        return [Picture(source, source.name)]
    paths = (path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    pictures = [Picture(path, path.relative_to(source).as_posix()) for path in sorted(paths)]
    if not pictures:
        raise FileNotFoundError(f"no pictures in {source}" if source.is_dir() else f"{source} is missing")
    return pictures


async def repeated(pictures: Iterable[Picture], times: int) -> AsyncIterator[Picture]:
    """`times` 0: for ever."""
    once, round_ = tuple(pictures), 0
    while not times or round_ < times:
        for picture in once:
            yield picture
        round_ += 1


async def listed() -> AsyncIterator[Picture]:
    """The paths on standard input, one per line, as they come."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        # File names need not be valid text: decode them as Python does elsewhere.
        encoding, errors = sys.stdin.encoding, "surrogateescape"
        with open(sys.stdin.fileno(), encoding=encoding, errors=errors, closefd=False) as names:
            for line in names:
                loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()  # a daemon: it may block after a stop
    while line := await lines.get():
        if name := line.rstrip("\r\n"):
            yield Picture(Path(name), Path(name).name)


def watched(folder: Path, settle: float, say: Callable[[OSError], None]) -> AsyncIterator[Picture]:
    """Pictures that appear or change in `folder` from now on, once unchanged for `settle` seconds.

    One that was missing for less than ten minutes, and comes back unchanged, is not sent again.
    While the folder can't be listed, as when a share is away, that is said once.
    Polls fifty times a second: the kernel does not report changes that cameras make on network shares.
    """
    return _watched(_looks(folder, say), settle, _stamps(folder))


async def _watched(
    looks: AsyncIterator[dict[Path, Stamp]], settle: float, sent: dict[Path, Stamp]
) -> AsyncIterator[Picture]:
    changing, seen = dict[Path, tuple[Stamp, float]](), dict[Path, float]()
    async for stamps in looks:
        now = time.monotonic()
        fresh = {path: stamp for path, stamp in stamps.items() if sent.get(path) != stamp}
        changing = {
            path: changing[path] if path in changing and changing[path][0] == stamp else (stamp, now)
            for path, stamp in fresh.items()
        }
        for path in sorted(fresh, key=lambda path: (fresh[path], path)):
            stamp, since = changing[path]
            if now - since >= settle:
                sent[path] = stamp
                yield Picture(path, path.name, since)
        if stamps:  # an empty folder does not tell that pictures were removed: a share may be away
            seen |= dict.fromkeys(stamps, now)
            seen = {path: last for path, last in seen.items() if now - last < _FORGET_SECONDS}
            sent = {path: stamp for path, stamp in sent.items() if path in seen}


async def _looks(folder: Path, say: Callable[[OSError], None]) -> AsyncIterator[dict[Path, Stamp]]:
    """What is in the folder, again and again."""
    away = False
    while True:
        try:
            stamps = await asyncio.to_thread(_stamps, folder)
        except OSError as error:
            if not away:
                say(error)
            away = True
        else:
            away = False
            yield stamps
        await asyncio.sleep(_LOOK_SECONDS)


def _stamps(folder: Path) -> dict[Path, Stamp]:
    """Of all non-empty pictures."""
    stamps = dict[Path, Stamp]()
    for path in folder.iterdir():
        if path.suffix.lower() in _SUFFIXES:
            try:
                facts = path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            if facts.st_size:
                stamps[path] = (facts.st_mtime_ns, facts.st_size)
    return stamps
