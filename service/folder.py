"""Lists the models folder: MODELS_DIR/PRODUCT/VERSION/."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from export.bundle import MAX_VERSION, is_folder, is_product_name

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, size, modification time and inode of every file of a bundle: when it differs, so does the bundle."""
Found = Fingerprint | str
"""A version's fingerprint, or why it can't be read."""

_VERSION = re.compile(r"[1-9][0-9]*")


def scan(models: Path) -> dict[str, dict[int, Found] | str]:
    """Every product with its versions, or why it can't be read. OSError when `models` is unreadable.

    Folders with other names are ignored: among them are bundles still being written.
    """
    return {
        product.name: versions
        for product in sorted(models.iterdir())
        if is_product_name(product.name) and (versions := _versions(product))
    }


def _versions(product: Path) -> dict[int, Found] | str:
    versions = dict[int, Found]()
    try:
        for version in product.iterdir():
            if _is_version(version.name) and (found := found_at(version)) is not None:
                versions[int(version.name)] = found
    except (FileNotFoundError, NotADirectoryError):
        pass  # not a folder, or removed meanwhile
    except OSError as error:  # no permission, or a network share that is away
        return str(error)
    return versions


def found_at(version: Path) -> Found | None:
    """The version's fingerprint, or why it can't be read; None if there is no folder."""
    try:
        return tuple(sorted(_files(version))) if is_folder(version) else None
    except OSError as error:
        return str(error)


def _is_version(name: str) -> bool:
    return _VERSION.fullmatch(name) is not None and int(name) <= MAX_VERSION


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Skips files that vanish meanwhile: a copy under way has temporary names."""
    for root, _, names in os.walk(folder, onerror=_raise_unless_gone):
        for name in names:
            with suppress(FileNotFoundError):
                status = (Path(root) / name).lstat()
                yield f"{root}/{name}", status.st_size, status.st_mtime_ns, status.st_ino


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
