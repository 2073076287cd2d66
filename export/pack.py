"""Writes bundles atomically: built under a name that no product can have, then renamed."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from export.bundle.files import checksum
from export.bundle.manifest import CHECKSUM, MANIFEST, MAX_VERSION, Manifest
from export.bundle.signature import SigningKey
from training.files import file_digest


class VersionTakenError(ValueError):
    """The requested version exists already, or no version is left."""


@contextmanager
def staging_folder(models: Path) -> Iterator[Path]:
    """An empty folder inside `models`, so that it can be renamed; removed at the end unless published."""
    models.mkdir(parents=True, exist_ok=True)
    root = models / f".export-{secrets.token_hex(8)}"
    root.mkdir()
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def publish(
    root: Path, product: Path, manifest: Manifest, version: int | None = None, key: SigningKey | None = None
) -> Path:
    """Publishes the staging folder `root` as `version`, or as the next one, of the folder `product`; returns
    the bundle's folder.

    The `manifest` gets the number that is free when all else is done. `key` signs the bundle. Raises
    VersionTakenError.
    """
    while True:
        number = version or next_version(product)
        target = product / str(number)
        refuse_taken(product, version)
        _write_manifest(root, manifest.model_copy(update={"version": number}))
        if key is not None:
            key.sign(root)
        _flush(root)
        product.mkdir(exist_ok=True)
        try:
            root.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue  # another export has taken the number in the meantime
        _flush_folder(product)
        return target


def file_digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, by relative path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): file_digest(path) for path in paths}


def _write_manifest(root: Path, manifest: Manifest) -> None:
    """Writes the manifest, and its digest, into the bundle at `root`."""
    content = (manifest.model_dump_json(indent=2) + "\n").encode()
    (root / MANIFEST).write_bytes(content)
    (root / CHECKSUM).write_bytes(checksum(content))


def refuse_taken(product: Path, version: int | None) -> None:
    """Raises VersionTakenError if the folder `product` contains `version`, or if it was withdrawn."""
    if version and (product / str(version)).exists():
        raise VersionTakenError(
            f"{product.name} has a version {version} already; versions are never replaced"
        )
    if version in _withdrawn(product):
        raise VersionTakenError(
            f"{product.name} had a version {version}, which was withdrawn; no other bundle gets its number"
        )


def newest_version(product: Path) -> int:
    """The highest version in the folder `product`; 0 if there is none."""
    return max(_versions(product), default=0)


def next_version(product: Path) -> int:
    """One above the highest in the folder `product` or withdrawn from it. Raises VersionTakenError if none is
    left."""
    newest = max([newest_version(product), *_withdrawn(product)])
    if newest == MAX_VERSION:
        raise VersionTakenError(
            f"{product.name} has version {newest}, the highest possible one: no version can follow"
        )
    return newest + 1


def _versions(product: Path) -> list[int]:
    return _numbers(path.name for path in product.glob("[0-9]*"))


def _withdrawn(product: Path) -> list[int]:
    """Withdrawn versions: deploy/kubernetes/withdraw keeps them beside the folder `product`."""
    mark = f".withdrawn-{product.name}-"
    return _numbers(path.name.removeprefix(mark) for path in product.parent.glob(f"{mark}*"))


def _numbers(names: Iterable[str]) -> list[int]:
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return [number for number in numbers if number <= MAX_VERSION]  # others are not served either


def _flush(root: Path) -> None:
    """Syncs `root` to disk, so that a power cut cannot leave a renamed folder without its content."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # its file system keeps a journal of folders, and they can't be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
