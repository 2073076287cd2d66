"""Writes bundles so that a reader sees all or nothing: built under a name no product has, then renamed."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from export.bundle.files import seal
from export.bundle.manifest import MANIFEST, MAX_VERSION, SEAL, Manifest
from export.bundle.signature import SigningKey
from training.files import file_digest


class VersionTakenError(ValueError):
    """The version asked for exists already."""


@contextmanager
def staging_folder(models: Path) -> Iterator[Path]:
    """An empty folder on the file system of `models`, removed at the end unless it has been published."""
    models.mkdir(parents=True, exist_ok=True)
    root = models / f".export-{secrets.token_hex(8)}"
    root.mkdir()
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def publish(
    root: Path,
    product: Path,
    describe: Callable[[int, Mapping[str, str]], Manifest],
    version: int | None = None,
    key: SigningKey | None = None,
) -> Path:
    """Makes the staging folder `root` a version in the folder `product`: `version`, or the next one.

    `describe` makes the manifest from the version and the digests of all files, `key` signs it all. Raises
    VersionTakenError.
    """
    digests = {p.relative_to(root).as_posix(): file_digest(p) for p in sorted(root.rglob("*")) if p.is_file()}
    while True:
        number = version or _next_version(product)
        target = product / str(number)
        refuse_taken(product, number)
        write_manifest(root, describe(number, digests))
        if key is not None:
            key.sign(root)
        _flush(root)
        product.mkdir(exist_ok=True)
        try:
            root.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue  # another export took the number meanwhile
        _flush_folder(product)
        return target


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Writes the manifest of the bundle at `root`, sealed."""
    content = (manifest.model_dump_json(indent=2) + "\n").encode()
    (root / MANIFEST).write_bytes(content)
    (root / SEAL).write_bytes(seal(content))


def refuse_taken(product: Path, version: int | None) -> None:
    """Raises VersionTakenError if the folder `product` has that `version`."""
    if version and (product / str(version)).exists():
        raise VersionTakenError(f"{product.name} has a version {version} already; a bundle is never changed")


def _next_version(product: Path) -> int:
    newest = max(_versions(product), default=0)
    if newest == MAX_VERSION:
        raise VersionTakenError(
            f"{product.name} has version {newest}, the highest possible one: no version can follow"
        )
    return newest + 1


def _versions(product: Path) -> list[int]:
    names = [path.name for path in product.glob("[0-9]*")]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return [number for number in numbers if number <= MAX_VERSION]  # others are not served either


def _flush(root: Path) -> None:
    """Waits until `root` is on the disk, so that no power cut leaves the name without the content."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
