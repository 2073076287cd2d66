"""A bundle's files on disk: exactly those of the manifest, unchanged, none a link to somewhere else."""

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from export.bundle.manifest import MANIFEST, BundleError


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(root: Path, digests: Mapping[str, str]) -> None:
    """Checks that `root` holds the manifest and the files of `digests` and nothing else; BundleError if not.

    Reads bytes only: no parser sees a file before its digest is known to be right.
    """
    present = _regular_files(root)
    if unlisted := sorted(present - digests.keys() - {MANIFEST}):
        raise BundleError(f"{unlisted[0]} is not listed in {MANIFEST}")
    for name, digest in digests.items():
        if name not in present:
            raise BundleError(f"{name} is missing")
        if file_digest(root / name) != digest:
            raise BundleError(f"{name} is damaged: its digest is not the one in {MANIFEST}")


def _regular_files(root: Path) -> set[str]:
    names = set[str]()
    for path in root.rglob("*"):  # does not descend into linked folders
        mode, name = path.lstat().st_mode, path.relative_to(root).as_posix()
        if stat.S_ISREG(mode):
            names.add(name)
        elif not stat.S_ISDIR(mode):
            raise BundleError(f"{name} is a link or special file: a bundle holds plain files only")
    return names
