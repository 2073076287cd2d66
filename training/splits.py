"""Good images are divided into three sets: `fit` trains, `select` chooses the score rule, `calibrate` sets
the threshold."""

import random
from collections.abc import Sequence
from typing import Literal, TypeVar

Split = Literal["fit", "select", "calibrate"]
Item = TypeVar("Item")

_BLOCK = 4
"""Consecutive names that stay together: cameras number the shots of one part in a row."""


def split(items: Sequence[Item], seed: int) -> dict[Split, tuple[Item, ...]]:
    """Divide good images, given in the order of their names.

    `select` takes 10 %, at most 48; `calibrate` 20 %, at least 100 where 400 are there; `fit` the rest.
    Whole blocks of consecutive names go to one set, so that near-duplicates are not on both sides.

    Raises:
        ValueError: fewer than 10 images.
    """
    total = len(items)
    if total < 10:
        raise ValueError(f"{total} good images: at least 10 are needed to learn, choose and calibrate")
    at_most = min(48, max(1, round(0.1 * total)))
    at_least = max(1, round(0.2 * total), 100 if total >= 400 else 0)
    # Few images: single ones, or a block would be a whole share.
    size = _BLOCK if total >= 100 else 1
    blocks = [range(start, min(start + size, total)) for start in range(0, total, size)]
    random.Random(seed).shuffle(blocks)
    shares: dict[Split, list[int]] = {"fit": [], "select": [], "calibrate": []}
    for block in blocks:
        if len(shares["select"]) + len(block) <= at_most:
            shares["select"] += block
        else:
            shares["calibrate" if len(shares["calibrate"]) < at_least else "fit"] += block
    return {name: tuple(items[index] for index in sorted(share)) for name, share in shares.items()}
