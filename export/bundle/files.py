"""Checks that a bundle's folder has exactly the files in the manifest: unchanged, and none of them a link.

A file that is not there is told by a BundleError whose cause is FileNotFoundError: it may be on its way.
"""

import hashlib
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from export.bundle.manifest import MANIFEST, SEAL, SIGNATURE, BundleError
from training.files import file_digest

_MAX_MANIFEST_BYTES = 16 * 2**20


def read_sealed_manifest(root: Path) -> bytes:
    """The manifest's bytes of the bundle at `root`. Raises BundleError if they do not match their digest."""
    if not root.is_dir():
        raise BundleError("there is no such folder") from FileNotFoundError(root)
    for name in (MANIFEST, SEAL):
        if not (mode := _mode(root / name)):
            raise BundleError(f"there is no file {name}") from FileNotFoundError(root / name)
        if not stat.S_ISREG(mode):
            raise BundleError(f"{name} is a link or special file: a bundle has regular files only")
    if (root / MANIFEST).stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} is too large")
    content = (root / MANIFEST).read_bytes()
    if (root / SEAL).read_bytes() != seal(content):
        raise BundleError(f"{MANIFEST} is damaged or was edited: its digest is not the one in {SEAL}")
    return content


def seal(manifest: bytes) -> bytes:
    """The content of the file `SEAL` for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def verify_files(root: Path, digests: Mapping[str, str]) -> None:
    """Raises BundleError unless `root` has the files in `digests` (SHA-256 by relative path) and, except for
    manifest and signature, no others.

    Only reads bytes: no parser may open a file before its digest is checked.
    """
    present = _regular_files(root)
    if unlisted := sorted(present - digests.keys() - {MANIFEST, SEAL, SIGNATURE}):
        raise BundleError(f"{unlisted[0]} is not listed in {MANIFEST}")
    for name, digest in digests.items():
        if name not in present:
            raise BundleError(f"{name} is missing") from FileNotFoundError(root / name)
        if file_digest(root / name) != digest:
            raise BundleError(f"{name} is damaged: its digest is not the one in {MANIFEST}")


def copy_files(root: Path, names: Iterable[str], copy: Path) -> None:
    """Copies the files `names` of the bundle at `root` into the folder `copy`."""
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, copy / name, follow_symlinks=False)


def _regular_files(root: Path) -> set[str]:
    names = set[str]()
    for path in root.rglob("*"):  # does not descend into linked folders
        mode, name = path.lstat().st_mode, path.relative_to(root).as_posix()
        if stat.S_ISREG(mode):
            names.add(name)
        elif not stat.S_ISDIR(mode):
            raise BundleError(f"{name} is a link or special file: a bundle has regular files only")
    return names


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0
