"""The network's input size, from the good images' own shape."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median

from training.geometry import MAX_INPUT_SIDE, SIDE_STEP, Size, UnreadableImage
from training.images import upright_size
from training.recipe import Recipe

_ELONGATED = 1.9
"""Long over short side from which the shape is kept; below, a square does as well (docs/log.md)."""
_ALIKE = 1.15
"""Factor within which aspect ratios count as the same."""
_WORTH_A_LINE = 1.3
"""Factor between aspect ratios from which stretching to one shape is worth a line."""
_MAX_SIZES = 32
_MIN_SIDE = 2 * SIDE_STEP  # two cells of the embedding
_AREA = (0.75, 1.25)
"""Least and greatest area of the input size, as a fraction of the recipe's."""


def shaped(recipe: Recipe, images: Sequence[Size]) -> Recipe:
    """`recipe` with the input size for good images of these sizes, and `own_shape` off.

    The size changes only if `own_shape` is set and at least 90 % of the images share an aspect ratio of
    about 2:1 or more: squeezing such images to a square would hide fine damage.
    """
    if not recipe.own_shape:
        return recipe
    size = own_size(images, Size(recipe.width, recipe.height))
    return recipe.model_copy(update={"height": size.height, "width": size.width, "own_shape": False})


def own_size(images: Sequence[Size], usual: Size) -> Size:
    """The input size nearest in shape to `images` with about as many pixels as `usual`; `usual` itself if
    their shapes differ or are not long."""
    if not images:
        return usual
    shapes = [_shape(size) for size in images]
    common = median(shapes)
    alike = sum(abs(shape - common) <= math.log(_ALIKE) for shape in shapes)
    if abs(common) < math.log(_ELONGATED) or alike < 0.9 * len(shapes):
        return usual
    least, most = (fraction * math.prod(usual) for fraction in _AREA)
    sides = range(_MIN_SIDE, min(int(most) // _MIN_SIDE, MAX_INPUT_SIDE) + 1, SIDE_STEP)
    every = (Size(width, height) for height, width in product(sides, sides))
    possible = [size for size in every if least <= math.prod(size) <= most]
    if not possible:  # very few pixels
        return usual
    return min(possible, key=lambda size: (abs(_shape(size) - common), -math.prod(size)))


def _shape(size: Size) -> float:
    """The logarithm of the aspect ratio, in which 2:1 and 1:2 are equally far from a square."""
    return math.log(size.width / size.height)


def stretching(images: Sequence[Size], recipe: Recipe) -> str | None:
    """A line that says so, if images of these sizes are stretched by much."""
    ratios = [size.width / size.height for size in images]
    if not ratios or max(ratios) <= _WORTH_A_LINE * min(ratios):
        return None
    return (
        f"the pictures differ in shape, width/height {min(ratios):.2f} to {max(ratios):.2f}: all are "
        f"stretched to {recipe.height}×{recipe.width}"
    )


def some_sizes(images: Sequence[Path]) -> list[Size]:
    """Sizes of up to 32 of the images, upright. Unreadable ones are skipped here: reading them all reports
    them."""
    sizes = list[Size]()
    for path in images[:: -(-len(images) // _MAX_SIZES)]:
        try:
            sizes.append(upright_size(path))
        except UnreadableImage:
            continue
    return sizes
