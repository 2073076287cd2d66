"""The network's input size, from the good pictures' own shape."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median

from training.geometry import UnreadableImage, read_rgb
from training.recipe import Recipe

_ELONGATED = 1.9
"""Long side over short side from which the shape is kept; below, a stretched square does as well."""
_ALIKE = 1.15
"""Factor within which pictures count as of one shape."""
_LOOKED_AT = 32
_GRID, _LEAST_SIDE = 32, 64
_AREA = (0.75, 1.25)
"""Least and greatest area of the input size, in parts of the recipe's."""

Size = tuple[int, int]
"""Height and width in pixels."""


def shaped(recipe: Recipe, pictures: Sequence[Path]) -> Recipe:
    """`recipe` at the input size for these good pictures, which is settled then.

    Another than the recipe's only where `own_shape` asks for it and nine in ten pictures agree on a shape of
    about 2:1 or more: what is squeezed much more along one axis than along the other hides fine damage.
    """
    if not recipe.own_shape:
        return recipe
    height, width = own_size(_sizes(pictures), (recipe.height, recipe.width))
    return recipe.model_copy(update={"height": height, "width": width, "own_shape": False})


def own_size(pictures: Sequence[Size], usual: Size) -> Size:
    """The input size nearest in shape to `pictures` with about as many pixels as `usual`; or `usual` itself,
    where they are of different shapes or none too long."""
    if not pictures:
        return usual
    shapes = [math.log(width / height) for height, width in pictures]
    common = median(shapes)
    alike = sum(abs(shape - common) <= math.log(_ALIKE) for shape in shapes)
    if abs(common) < math.log(_ELONGATED) or alike < 0.9 * len(shapes):
        return usual
    least, most = (share * usual[0] * usual[1] for share in _AREA)
    sides = range(_LEAST_SIDE, int(most) // _LEAST_SIDE + 1, _GRID)
    possible = [(height, width) for height, width in product(sides, sides) if least <= height * width <= most]
    return min(possible, key=lambda size: (abs(math.log(size[1] / size[0]) - common), -size[0] * size[1]))


def _sizes(pictures: Sequence[Path]) -> list[Size]:
    """Of some of the pictures, upright. What can't be read is somebody else's to report."""
    sizes = list[Size]()
    for path in pictures[:: -(-len(pictures) // _LOOKED_AT) or 1]:
        try:
            height, width, _ = read_rgb(path).shape
        except UnreadableImage:
            continue
        sizes.append((height, width))
    return sizes
