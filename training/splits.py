"""Good images are divided into three sets: `fit` trains, `select` chooses the score rule, `calibrate` sets
the threshold."""

import random
from collections.abc import Sequence
from typing import Literal

Split = Literal["fit", "select", "calibrate"]

_BLOCK = 4
"""Consecutive names that stay together: cameras number the shots of one part in a row."""


def split(total: int, seed: int, parts: Sequence[str] | None = None) -> dict[Split, tuple[int, ...]]:
    """Divide `total` good images, numbered in the order of their names: the numbers in each set, ascending.

    `select` takes 10 %, at most 48; `calibrate` 20 %, at least 100 where 400 are there; `fit` the rest. All
    images of one part go to one set, if `parts` says which part each shows: a threshold set on other
    exposures of the parts that were learned from would be too low for new parts. If not, whole blocks of
    consecutive names do, and of fewer than 100 images each its own way. A part with more images than
    `calibrate` can take goes to `fit`; if this leaves few, `calibrate` and `select` share them 2 to 1.

    Raises ValueError for fewer than 10 images, and for parts too few or too uneven to leave half of the
    images to `fit` and half of its 20 % to `calibrate`.
    """
    if total < 10:
        raise ValueError(f"{total} good images: at least 10 are needed to learn, choose and calibrate")
    blocks = _blocks(total) if parts is None else _parts(parts)
    sizes = [len(block) for block in blocks]
    wanted = max(round(0.2 * total), 100 if total >= 400 else 0)
    limit = wanted + wanted // 2  # of calibrate
    at_most = _most_to_select(sizes, limit)
    random.Random(seed).shuffle(blocks)
    subsets: dict[Split, list[int]] = {"fit": [], "select": [], "calibrate": []}
    for block in blocks:
        calibrated = len(subsets["calibrate"])
        if len(subsets["select"]) + len(block) <= at_most:
            subsets["select"] += block
        elif calibrated < wanted and calibrated + len(block) <= limit:
            subsets["calibrate"] += block
        else:
            subsets["fit"] += block
    if len(subsets["fit"]) < total / 2 or len(subsets["calibrate"]) < wanted / 2:
        raise ValueError(
            f"{total} images of {len(blocks)} parts, up to {max(sizes)} of one, can't be divided: "
            "give images of more parts"
        )
    return {name: tuple(sorted(subset)) for name, subset in subsets.items()}


def _most_to_select(sizes: Sequence[int], limit: int) -> int:
    """Most images of `select`, for blocks of these `sizes`; only those up to `limit` don't have to train."""
    usual = min(48, round(0.1 * sum(sizes)))
    third_of_divisible = sum(size for size in sizes if size <= limit) // 3
    return max(min(usual, third_of_divisible), min(sizes))  # at least the smallest block


def _blocks(total: int) -> list[list[int]]:
    # Few images: single ones, or a block would be a whole set.
    size = _BLOCK if total >= 100 else 1
    return [list(range(start, min(start + size, total))) for start in range(0, total, size)]


def _parts(names: Sequence[str]) -> list[list[int]]:
    """The places of each part's images."""
    places = dict[str, list[int]]()
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return list(places.values())
