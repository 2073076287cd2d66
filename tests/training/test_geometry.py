"""Picture → RGB → network input: one rule for every kind of file."""

import io
import tracemalloc
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from training.geometry import Filter, Geometry, UnreadableImage, to_rgb


def reread(image: Image.Image, fmt: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def colours() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (12, 20, 3), np.uint8))


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_to_the_pixel(fmt: str) -> None:
    assert np.array_equal(to_rgb(reread(colours(), fmt)), np.asarray(colours()))


def test_grey_is_repeated() -> None:
    grey = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20))
    rgb = to_rgb(reread(grey, "PNG"))
    assert rgb.shape == (12, 20, 3)
    assert all(np.array_equal(rgb[:, :, c], np.asarray(grey)) for c in range(3))


@pytest.mark.parametrize("filter_", get_args(Filter))
def test_grey_is_stretched_as_its_repetition_is(filter_: Filter) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (300, 500), np.uint8)
    geometry = Geometry(256, 224, filter_)
    once = geometry.apply(to_rgb(Image.fromarray(grey)))
    assert np.array_equal(once, geometry.apply(np.repeat(grey[:, :, None], 3, axis=2)))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_over_their_full_range(fmt: str) -> None:
    wide = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    assert to_rgb(reread(Image.fromarray(wide), fmt))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_each_of_sixteen_bits_greys_is_rounded_to_the_nearest(kind: type[np.integer]) -> None:
    greys = Image.fromarray(np.arange(65536).reshape(256, 256).astype(kind))
    exact = [(grey * 255 + 32767) // 65535 for grey in range(65536)]
    assert to_rgb(greys)[:, :, 0].ravel().tolist() == exact


def test_sixteen_bits_take_no_memory_for_wider_integers() -> None:
    wide = Image.fromarray(np.zeros((1000, 1000), np.uint16))
    tracemalloc.start()
    to_rgb(wide)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6  # bytes: of Pillow's own copies four a pixel, and the one that is left


def test_orientation_of_the_camera_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    turned = reread(colours(), "PNG", exif=exif)
    assert np.array_equal(to_rgb(turned), np.rot90(np.asarray(colours()), -1))


def test_palette_transparency_cmyk_and_one_bit() -> None:
    red = Image.new("RGB", (4, 3), (255, 0, 0))
    assert to_rgb(reread(red.convert("P"), "PNG"))[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(reread(red.convert("P"), "PNG", transparency=0)).shape == (3, 4, 3)
    assert to_rgb(reread(red.convert("CMYK"), "TIFF"))[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(reread(Image.new("1", (4, 3), 1), "PNG"))[0, 0].tolist() == [255, 255, 255]


def test_floating_point_is_refused_and_the_cure_named() -> None:
    with pytest.raises(UnreadableImage, match="8 or 16 bits"):
        to_rgb(reread(Image.new("F", (4, 3), 0.5), "TIFF"))


def test_integers_beyond_sixteen_bits_are_refused() -> None:
    kept = np.array([[0, 257, 65535]], np.int32)
    assert to_rgb(reread(Image.fromarray(kept), "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
    for wrong in (-1, 65536):
        with pytest.raises(UnreadableImage, match="outside 0 to 65535"):
            to_rgb(reread(Image.fromarray(np.array([[5, wrong]], np.int32)), "TIFF"))


@pytest.mark.parametrize("size", [(64, 96), (320, 256)])
@pytest.mark.parametrize(("rule", "antialias"), [("bilinear", True), ("bilinear-point", False)])
def test_filters_are_torch_s_with_and_without_antialiasing(
    size: tuple[int, int], rule: str, antialias: bool
) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (150, 210, 3), np.uint8)
    ours = Geometry(*size, filter="bilinear" if rule == "bilinear" else "bilinear-point").apply(rgb)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    theirs = F.interpolate(tensor, size, mode="bilinear", antialias=antialias, align_corners=False)
    difference = np.abs(ours.astype(float) - theirs[0].permute(1, 2, 0).numpy())
    assert difference.max() <= 1.01
    assert difference.mean() < 0.5


def test_an_image_of_the_right_size_is_left_alone() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (64, 32, 3), np.uint8)
    assert np.array_equal(Geometry(64, 32).apply(rgb), rgb)


def test_sizes_that_the_network_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Geometry(100, 64)
