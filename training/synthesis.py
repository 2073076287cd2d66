"""Pseudo-abnormal versions of good frames, from nothing but good frames. Seeded per sample.

Kinds of damage:
    drd  the paper's: one square cut from the image and pasted elsewhere as patch + 0.2 · original, unclipped.
    mix  such squares, Perlin-masked pastes (after DRAEM, ICCV 2021) and thin scars (after CutPaste,
         CVPR 2021), blended and clipped; what is pasted comes from another good frame, from the same frame
         turned, re-lit or shuffled, or is noise. No outside texture data.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor

Damage = Literal["drd", "mix"]
Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SQUARES = ((0.2, 150, 200), (0.3, 64, 100), (0.5, 10, 32))
"""Probability, least and greatest side at 256 px (from the authors' program)."""
_VISIBLE = 4.0
"""Grey levels by which `mix` has to change a pixel. A paste from a dark background to a dark background shows
nothing, and is no damage."""
_MIN_VISIBLE = 20
"""Pixels at 256 px that a damage has to change; otherwise another one is drawn."""
_MAX_DRAWS = 8
"""Some frames cannot be changed."""


def synthesise(frames: Tensor, damage: Damage, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Damage every one of the good `frames`, uint8 RGB `[N, H, W, 3]`, once. The same seed and batch give the
    same damage.

    Gives the damaged frames, float32 `[N, H, W, 3]` on the 0–255 scale (`drd` may exceed 255 by a fifth), and
    where they differ visibly from the good ones, bool `[N, H, W]` (`drd`: all of the square, though black on
    black shows nothing).
    """
    good = frames.numpy().astype(np.float32)
    damaged = _paste_square if damage == "drd" else _mixed
    images, masks = np.empty_like(good), np.empty(good.shape[:3], np.bool_)
    for index, seed in zip(range(len(good)), seeds, strict=True):
        images[index], masks[index] = damaged(good, index, default_rng(seed))
    return torch.from_numpy(images), torch.from_numpy(masks)


def add_noise(feature: Tensor, deviation: float, limit: float, seed: int) -> Tensor:
    """`feature` with Gaussian noise, drawn on its device: of standard deviation `deviation`, but at most the
    fraction `limit` of the feature's root mean square; 0: no limit."""
    generator = torch.Generator(feature.device).manual_seed(seed)
    noise = torch.randn(feature.shape, generator=generator, device=feature.device, dtype=torch.float32)
    if limit:
        deviation = min(deviation, limit * feature.float().square().mean().sqrt().item())
    return feature + deviation * noise.to(feature.dtype)


def _paste_square(good: Pixels, index: int, rng: Generator) -> tuple[Pixels, Mask]:
    image = good[index]
    height, width = image.shape[:2]
    side = _square_side(rng, min(height, width))
    (y0, y1), (x0, x1) = (rng.integers(0, extent - side + 1, 2) for extent in (height, width))
    damaged, mask = image.copy(), np.zeros((height, width), np.bool_)
    damaged[y1 : y1 + side, x1 : x1 + side] *= 0.2
    damaged[y1 : y1 + side, x1 : x1 + side] += image[y0 : y0 + side, x0 : x0 + side]
    mask[y1 : y1 + side, x1 : x1 + side] = True
    return damaged, mask


def _square_side(rng: Generator, extent: int) -> int:
    choice = rng.choice(len(_SQUARES), p=[probability for probability, _, _ in _SQUARES])
    _, least, greatest = _SQUARES[choice]
    return max(2, round(int(rng.integers(least, greatest + 1)) * extent / 256))


def _mixed(good: Pixels, index: int, rng: Generator) -> tuple[Pixels, Mask]:
    least = _MIN_VISIBLE * good[index].shape[0] * good[index].shape[1] / 256**2
    for _ in range(_MAX_DRAWS):
        damaged, mask = _blended(good, index, rng)
        if mask.sum() >= least:
            break
    return damaged, mask


def _blended(good: Pixels, index: int, rng: Generator) -> tuple[Pixels, Mask]:
    image = good[index]
    shape = _SHAPES[rng.choice(len(_SHAPES), p=(0.25, 0.5, 0.25))]
    mask = shape(rng, *image.shape[:2])
    opacity = np.float32(rng.uniform(0.2, 1.0))
    content = _content(good, index, rng)
    blended = np.clip(image + opacity * (content - image), 0, 255)
    mask &= (np.abs(blended - image) >= _VISIBLE).any(2)
    return np.where(mask[:, :, None], blended, image), mask


def _content(good: Pixels, index: int, rng: Generator) -> Pixels:
    """What is pasted: `[H, W, 3]`."""
    image = good[index]
    match rng.choice(4, p=(0.35, 0.25, 0.25, 0.15)):
        case 0 if len(good) > 1:
            other = good[(index + 1 + rng.integers(len(good) - 1)) % len(good)]
            return np.roll(other, rng.integers(0, other.shape[:2]), axis=(0, 1))
        case 1:  # the same, turned over and re-lit
            turned = image[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
            light = np.float32(rng.uniform(0.4, 1.6))
            return np.asarray(np.roll(turned, rng.integers(0, image.shape[:2]), (0, 1)) * light)
        case 2:  # the same, its tiles shuffled
            return _shuffled(image, rng)
    level = rng.uniform(0, 255) + rng.normal(0, rng.uniform(0, 40), (*image.shape[:2], 1))
    return np.broadcast_to(level.astype(np.float32), image.shape)


def _shuffled(image: Pixels, rng: Generator) -> Pixels:
    """An 8×8 mosaic of the image in random order. Sides are multiples of 32, so tiles fit."""
    height, width, channels = image.shape
    tiles = image.reshape(8, height // 8, 8, width // 8, channels).swapaxes(1, 2).reshape(64, -1)
    shuffled = tiles[rng.permutation(64)].reshape(8, 8, height // 8, width // 8, channels)
    return np.ascontiguousarray(shuffled.swapaxes(1, 2).reshape(image.shape))


def _square(rng: Generator, height: int, width: int) -> Mask:
    side = _square_side(rng, min(height, width))
    y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    mask = np.zeros((height, width), np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def _scar(rng: Generator, height: int, width: int) -> Mask:
    """A thin bar, 2–8 px by 15–80 px at 256 px, at any angle."""
    scale = min(height, width) / 256
    angle = rng.uniform(0, np.pi)
    cy, cx = rng.uniform(0.1, 0.9, 2) * (height, width)
    y, x = np.ogrid[:height, :width]
    along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    length, breadth = rng.uniform(15, 80) * scale / 2, max(1.0, rng.uniform(2, 8) * scale / 2)
    return np.asarray((np.abs(along) <= length) & (np.abs(across) <= breadth))


def _perlin(rng: Generator, height: int, width: int) -> Mask:
    """Where Perlin noise on a grid of 2^0..2^5 cells per axis exceeds one half (or its top twentieth)."""
    cells_y, cells_x = 2 ** rng.integers(0, 6, 2)
    angles = rng.uniform(0, 2 * np.pi, (cells_y + 1, cells_x + 1)).astype(np.float32)
    y = (np.arange(height, dtype=np.float32) + 0.5)[:, None] * cells_y / height
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, :] * cells_x / width
    iy, ix = y.astype(np.intp), x.astype(np.intp)
    fy, fx = y - iy, x - ix

    def corner(dy: int, dx: int) -> Pixels:
        angle = angles[iy + dy, ix + dx]
        return np.asarray(np.sin(angle) * (fy - dy) + np.cos(angle) * (fx - dx), np.float32)

    ease_y, ease_x = (f * f * f * (f * (f * 6 - 15) + 10) for f in (fy, fx))
    top = corner(0, 0) + ease_x * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + ease_x * (corner(1, 1) - corner(1, 0))
    noise = np.sqrt(np.float32(2)) * (top + ease_y * (bottom - top))
    return np.asarray(noise > min(0.5, float(np.quantile(noise[::4, ::4], 0.95))))


_SHAPES = (_square, _perlin, _scar)
