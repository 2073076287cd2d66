"""Good images are divided into three sets: `fit` trains, `select` chooses the score rule, `calibrate` sets
the threshold."""

import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

Split = Literal["fit", "select", "calibrate"]
Item = TypeVar("Item")

_BLOCK = 4
"""Consecutive names that stay together: cameras number the shots of one part in a row."""


def split(
    items: Sequence[Item], seed: int, part_of: Callable[[Item], str] | None = None
) -> dict[Split, tuple[Item, ...]]:
    """Divide good images, given in the order of their names.

    `select` takes 10 %, at most 48; `calibrate` 20 %, at least 100 where 400 are there; `fit` the rest. All
    images of one part, as told by `part_of`, go to one set: a threshold set on other exposures of the parts
    that were learned from would be too low for new parts. If `part_of` is not given, whole blocks of
    consecutive names do.

    Raises:
        ValueError: fewer than 10 images, or too few parts.
    """
    total = len(items)
    if total < 10:
        raise ValueError(f"{total} good images: at least 10 are needed to learn, choose and calibrate")
    at_most = min(48, max(1, round(0.1 * total)))
    at_least = max(1, round(0.2 * total), 100 if total >= 400 else 0)
    blocks = _blocks(total) if part_of is None else _parts(list(map(part_of, items)))
    random.Random(seed).shuffle(blocks)
    shares: dict[Split, list[int]] = {"fit": [], "select": [], "calibrate": []}
    for block in blocks:
        if not shares["select"] or len(shares["select"]) + len(block) <= at_most:
            shares["select"] += block
        else:
            shares["calibrate" if len(shares["calibrate"]) < at_least else "fit"] += block
    if not all(shares.values()):
        raise ValueError(f"{total} images of {len(blocks)} parts can't be divided: give images of more parts")
    return {name: tuple(items[index] for index in sorted(share)) for name, share in shares.items()}


def _blocks(total: int) -> list[list[int]]:
    # Few images: single ones, or a block would be a whole share.
    size = _BLOCK if total >= 100 else 1
    return [list(range(start, min(start + size, total))) for start in range(0, total, size)]


def _parts(names: Sequence[str]) -> list[list[int]]:
    """The places of each part's images."""
    places = dict[str, list[int]]()
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return list(places.values())
