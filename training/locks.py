"""A lock on a folder, between processes: it ends with its process, however that ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

    def _open(folder: Path) -> int:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:
    import msvcrt

    def _open(folder: Path) -> int:
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)  # Windows does not open folders

    def _lock(descriptor: int) -> None:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError("locked by another process") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock. Raises BlockingIOError if another process does, another OSError if the folder can't be
    locked, as on some file servers."""
    descriptor = _open(folder)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)
