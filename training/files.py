"""Files: whether they are there, their digests, and writing them whole or not at all."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path


def is_folder(path: Path) -> bool:
    """Unlike Path.is_dir, which from Python 3.14 on takes whatever can't be read for none. Raises OSError."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Unlike Path.is_file, as `is_folder`. Raises OSError."""
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    """0 if there is nothing."""
    try:
        return path.stat().st_mode
    except ValueError:  # a NUL in the name
        return 0
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # not there, or a link to nothing
            return 0
        raise


def file_digest(path: Path) -> str:
    """SHA-256 of the file's content: 64 lower-case hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # which names no file if the disk is full
        temporary.unlink(missing_ok=True)  # what there is of it takes room
        raise OSError(f"{path}: cannot be written ({error.strerror})") from error
    temporary.replace(path)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
