"""What the product's threshold finds of damage drawn on good pictures: specks and scratches of several sizes.

Real damage may look more like good parts, or less. But what is drawn too small to be found shows what the
network can't see at its input size, even where no defective part is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundle.deviations import Run
from export.bundle.manifest import BATCH_SIZES
from export.bundle.reading import judge, require_finite
from export.bundle.scale import Scale
from export.golden import spread
from export.roi import inside_polygon
from training.geometry import Geometry, Size
from training.images import read_rgb

_LENGTHS = (2, 4, 8, 16, 32, 64)
"""In pixels of a frame."""

_DAMAGE = {
    f"{kind}, {contrast} of 255 grey levels": (width, contrast)
    for kind, width in (("speck", 1.0), ("scratch 8:1", 0.125))
    for contrast in (20, 60)
}
"""Its width as a fraction of its length, and its contrast, by name."""

_MAX_PICTURES = 32
_FINE = 8
"""Sample points per pixel and direction, to tell how much of it is covered."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`found`, by the damage's name: the fraction of `pictures` that are not OK with it, for each length.
    `lengths` are in pixels of a picture of `size`, the median one."""

    pictures: int
    size: Size
    lengths: tuple[float, ...]
    found: dict[str, tuple[float, ...]]


def sensitivity(
    run: Run,
    images: Sequence[Path],
    geometry: Geometry,
    inside: NDArray[np.bool_],
    scale: Scale,
    guard_band: float,
) -> Sensitivity:
    """Draws on at most 32 of `images`, good ones that are OK, with centres where `inside` `[H, W]` is
    true, and judges by `scale` and `guard_band` what `run` makes of it. Raises FrameFailed if that is not
    finite."""
    chosen, sizes, found = spread(images, _MAX_PICTURES), list[Size](), list[bool]()
    for number, path in enumerate(tqdm(chosen, "damage", unit="image", leave=False, disable=None)):
        rgb = read_rgb(path)
        sizes.append(Size.of(rgb))
        damaged = np.stack(list(_damaged(rgb, geometry, inside, np.random.default_rng(number))))
        for batch in damaged.reshape(-1, max(BATCH_SIZES), *damaged.shape[1:]):  # 24 frames: full batches
            for heatmap, raw in zip(*run(batch), strict=True):
                require_finite(heatmap, raw, f"{path}: the engine's output for drawn damage")
                found.append(judge(scale.score(raw), guard_band)[0] != "OK")
    size = sorted(sizes, key=lambda size: size.width * size.height)[len(sizes) // 2]
    enlarged = sqrt(size.width * size.height / (geometry.width * geometry.height))
    lengths = tuple(enlarged * length for length in _LENGTHS)
    shares = np.reshape(found, (-1, len(_DAMAGE), len(_LENGTHS))).mean(0)
    return Sensitivity(
        len(chosen), size, lengths, dict(zip(_DAMAGE, map(tuple, shares.tolist()), strict=True))
    )


def _damaged(
    rgb: NDArray[np.uint8], geometry: Geometry, inside: NDArray[np.bool_], rng: Generator
) -> Iterator[NDArray[np.uint8]]:
    """Frames of one picture: with each kind of damage, of each length. All is at one place, and is darker
    than that or, where it is dark, lighter."""
    frame, size = geometry.apply(rgb), Size.of(rgb)
    y, x = np.divmod(rng.choice(np.flatnonzero(inside)), geometry.width)
    centre = (x + 0.5) / geometry.width, (y + 0.5) / geometry.height
    angle, sign = rng.uniform(0, np.pi), -1 if frame[y, x].mean() >= 128 else 1
    for (width, contrast), length in product(_DAMAGE.values(), _LENGTHS):
        covered = bar(geometry, size, centre, angle, length, width * length)
        changed = frame + sign * contrast * covered[:, :, np.newaxis]
        yield changed.round().clip(0, 255).astype(np.uint8)


def bar(
    geometry: Geometry, size: Size, centre: tuple[float, float], angle: float, length: float, width: float
) -> NDArray[np.float64]:
    """How much of each pixel `[H, W]` of a frame a bar covers, 0 to 1, which is a rectangle in the picture of
    this `size`. `centre` is in fractions of the picture; length and width are in pixels of a frame that has
    kept the picture's shape."""
    unit = sqrt(size.width * size.height / (geometry.width * geometry.height))
    along = np.array([np.cos(angle), np.sin(angle)]) * unit * length / 2 / size
    across = np.array([-np.sin(angle), np.cos(angle)]) * unit * width / 2 / size
    corners = centre + np.array([along + across, along - across, -along - across, -along + across])
    sides = geometry.width, geometry.height
    left, top = np.floor(corners.min(0) * sides).clip(0, sides).astype(int)
    right, bottom = np.ceil(corners.max(0) * sides).clip(0, sides).astype(int)
    x = (np.arange(_FINE * left, _FINE * right) + 0.5) / (_FINE * geometry.width)
    y = (np.arange(_FINE * top, _FINE * bottom) + 0.5) / (_FINE * geometry.height)
    points = inside_polygon(tuple(map(tuple, corners.tolist())), x, y[:, np.newaxis])
    covered = np.zeros((geometry.height, geometry.width))
    window = points.reshape(bottom - top, _FINE, right - left, _FINE)
    covered[top:bottom, left:right] = window.mean((1, 3))
    return covered
