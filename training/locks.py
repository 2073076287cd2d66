"""A lock on a folder, between processes: it ends with its process, however that ends."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

    def lock(folder: Path) -> int:
        """A descriptor: closing it unlocks the folder. BlockingIOError if another process has locked it,
        another OSError if it can't be locked, as on some file servers."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

else:
    import msvcrt

    def lock(folder: Path) -> int:
        """The same by a file in it, as Windows does not open folders."""
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            os.close(descriptor)
            raise BlockingIOError(f"{folder} is locked") from error
        return descriptor
