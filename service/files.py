"""Files that are read again while serving: tokens and certificates."""

import errno
import stat
from pathlib import Path


def read_file(path: Path, limit: int = -1) -> bytes:
    """Its content, at most `limit` bytes. Raises OSError, also for what is no regular file: reading a pipe
    would not end, and no later change would be noticed."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with path.open("rb") as file:
        return file.read(limit)
