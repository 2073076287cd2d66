"""Checks that a bundle's folder has exactly the files in the manifest: unchanged, and none of them a link.

A file that is not there is reported as a BundleError whose cause is FileNotFoundError: the bundle may still
be being copied, so the service tries again (service/version.py).
"""

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from export.bundle.manifest import CHECKSUM, MANIFEST, SIGNATURE, BundleError
from training.files import file_digest, is_folder

_MAX_BYTES = 16 * 2**20
"""Limit for a file that is read as a whole."""


def read_manifest(root: Path) -> bytes:
    """The manifest's bytes of the bundle at `root`. Raises BundleError if they do not match their digest."""
    if not is_folder(root):
        raise BundleError("there is no such folder") from FileNotFoundError(root)
    content = read_regular(root / MANIFEST)
    if read_regular(root / CHECKSUM) != checksum(content):
        raise BundleError(f"{MANIFEST} is damaged or was edited: its digest is not the one in {CHECKSUM}")
    return content


def read_regular(path: Path, missing: str = "") -> bytes:
    """The content of a small file of the bundle. Raises BundleError, also if it is a link or special file;
    `missing` says it if it is not there."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise BundleError(missing or f"there is no file {path.name}") from error
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path.name)
    if status.st_size > _MAX_BYTES:
        raise BundleError(f"{path.name} is too large")
    return path.read_bytes()


def checksum(manifest: bytes) -> bytes:
    """The content of the file `CHECKSUM` for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def verify_files(root: Path, digests: Mapping[str, str]) -> None:
    """Raises BundleError unless `root` has the files in `digests` (SHA-256 by relative path) and, except for
    manifest and signature, no others.

    Only reads bytes: no parser may open a file before its digest is checked.
    """
    present = _regular_files(root)
    if unlisted := sorted(present - digests.keys() - {MANIFEST, CHECKSUM, SIGNATURE}):
        raise BundleError(f"{unlisted[0]} is not listed in {MANIFEST}")
    for name, digest in digests.items():
        if name not in present:
            raise BundleError(f"{name} is missing") from FileNotFoundError(root / name)
        if file_digest(root / name) != digest:
            raise BundleError(f"{name} is damaged: its digest is not the one in {MANIFEST}")


def _regular_files(root: Path) -> set[str]:
    names = set[str]()
    for path in root.rglob("*"):  # does not descend into linked folders
        mode, name = path.lstat().st_mode, path.relative_to(root).as_posix()
        if stat.S_ISREG(mode):
            names.add(name)
        elif not stat.S_ISDIR(mode):
            raise _not_regular(name)
    return names


def _not_regular(name: str) -> BundleError:
    return BundleError(f"{name} is a link or special file: a bundle has regular files only")
