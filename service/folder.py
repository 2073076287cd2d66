"""Lists the models folder: MODELS_DIR/PRODUCT/VERSION/."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from export.bundle import MAX_VERSION, is_product_name

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, size, modification time and inode of every file of a bundle: when it differs, so does the bundle."""

_VERSION = re.compile(r"[1-9][0-9]*")


def scan(models: Path) -> dict[str, dict[int, Fingerprint] | OSError]:
    """Every product with its versions, or with the error on reading it. OSError when `models` is unreadable.

    Folders with other names are ignored: among them are bundles still being written.
    """
    return {
        product.name: versions
        for product in sorted(models.iterdir())
        if is_product_name(product.name) and (versions := _versions(product))
    }


def _versions(product: Path) -> dict[int, Fingerprint] | OSError:
    versions = dict[int, Fingerprint]()
    try:
        for version in product.iterdir():
            if _is_version(version.name) and _is_folder(version):
                versions[int(version.name)] = tuple(sorted(_files(version)))
    except (FileNotFoundError, NotADirectoryError):
        pass  # not a folder, or removed meanwhile
    except OSError as error:
        return error
    return versions


def _is_folder(path: Path) -> bool:
    """Unlike Path.is_dir, which from Python 3.14 on takes whatever can't be read for none. Raises OSError."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # gone, or a link to nothing
            return False
        raise


def _is_version(name: str) -> bool:
    return _VERSION.fullmatch(name) is not None and int(name) <= MAX_VERSION


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Without those that vanish meanwhile: a copy under way has temporary names."""
    for root, _, names in os.walk(folder, onerror=_raise_unless_gone):
        for name in names:
            with suppress(FileNotFoundError):
                facts = (Path(root) / name).lstat()
                yield f"{root}/{name}", facts.st_size, facts.st_mtime_ns, facts.st_ino


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
