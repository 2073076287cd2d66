"""The models folder as it is on disk: MODELS_DIR/PRODUCT/VERSION/."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from export.bundle import MAX_VERSION, PRODUCT_NAME

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, size, time and inode of every file of a bundle: with another one it is another bundle."""

_VERSION = re.compile(r"[1-9][0-9]*")


def scan(models: Path) -> dict[str, dict[int, Fingerprint] | OSError]:
    """Every product with its versions, or with why it can't be read. OSError when `models` itself can't be.

    What has no product's or version's name is passed over: bundles in the making have none.
    """
    return {
        product.name: versions
        for product in sorted(models.iterdir())
        if PRODUCT_NAME.fullmatch(product.name) and (versions := _versions(product))
    }


def _versions(product: Path) -> dict[int, Fingerprint] | OSError:
    versions = dict[int, Fingerprint]()
    try:
        for version in product.iterdir():
            if _is_version(version.name) and version.is_dir():
                with suppress(FileNotFoundError):
                    versions[int(version.name)] = tuple(sorted(_files(version)))
    except (FileNotFoundError, NotADirectoryError):
        pass  # no folder, or taken away while being looked at
    except OSError as error:
        return error
    return versions


def _is_version(name: str) -> bool:
    return _VERSION.fullmatch(name) is not None and int(name) <= MAX_VERSION


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    for root, _, names in os.walk(folder):
        for name in names:
            facts = (Path(root) / name).lstat()
            yield f"{root}/{name}", facts.st_size, facts.st_mtime_ns, facts.st_ino
