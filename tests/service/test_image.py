"""Which images are decoded, and which are refused with which error."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.bundle import Geometry
from service.errors import BadImage, TooLarge, UnlikeDeclared
from service.values import Decoded
from service.workers.image import ImageLimits, declared_type, decode, decode_rgb
from tests.service.images import bomb, encoded, plain

GEOMETRY = Geometry(32, 32)


def decoded(
    body: bytes, declared: str | None = None, pixels: int = 1_000_000, side: int = 20_000, frames: int = 4
) -> Decoded:
    return decode(body, GEOMETRY, declared=declared, limits=ImageLimits(pixels, side, frames))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_every_served_format_is_recognised_by_its_content(kind: str) -> None:
    image = decoded(plain(200, (40, 60), kind))

    assert image.size == (60, 40)
    assert image.pixels.shape == (32, 32, 3)
    assert np.all(image.pixels == 200)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PPM", "ICO"])
def test_no_other_format_is_opened(kind: str) -> None:
    with pytest.raises(BadImage):
        decoded(plain(200, kind=kind))


@pytest.mark.parametrize("body", [b"", b"not an image", plain(9)[:60], plain(9, (64, 64), "JPEG")[:-200]])
def test_text_and_truncated_images_are_unreadable(body: bytes) -> None:
    with pytest.raises(BadImage):
        decoded(body)


def test_pixels_are_counted_before_they_are_decoded() -> None:
    body = bomb()
    assert len(body) < 20_000

    with pytest.raises(TooLarge):
        decoded(body, pixels=40_000_000)


def test_a_bomb_beyond_pillows_own_limit_is_too_large_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)

    with pytest.raises(TooLarge):
        decoded(plain(1, (100, 100)), pixels=40_000_000)


def test_content_unlike_its_declared_type_is_refused() -> None:
    with pytest.raises(UnlikeDeclared, match="image/png"):
        decoded(plain(1, kind="JPEG"), declared="image/png")
    assert decoded(plain(1, kind="JPEG"), declared="image/jpeg").size.width == 32


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (None, None),
        ("application/octet-stream", None),
        ("application/x-www-form-urlencoded", None),
        ("IMAGE/JPEG; q=1", "image/jpeg"),
    ],
)
def test_types_that_say_nothing_leave_it_to_the_content(header: str | None, kind: str | None) -> None:
    assert declared_type(header) == kind


@pytest.mark.parametrize("header", ["text/plain", "image/gif", "application/json"])
def test_types_that_are_not_served_are_refused(header: str) -> None:
    with pytest.raises(UnlikeDeclared):
        declared_type(header)


def test_the_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    body = encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif)

    image = decoded(body)

    assert image.size == (40, 60)
    assert decode_rgb(body, ImageLimits(10_000, 100, 1)).shape == (60, 40, 3)


def test_the_digest_is_that_of_the_sent_bytes() -> None:
    import hashlib

    body = plain(77)
    assert decoded(body).sha256 == hashlib.sha256(body).hexdigest()


def test_of_a_picture_with_several_pages_the_first_counts() -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ((1, 1, 1), (255, 255, 255)))
    buffer = BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[second])

    assert np.all(decoded(buffer.getvalue()).pixels == 1)


def pages(count: int, kind: str = "TIFF", **options: Any) -> bytes:
    first, *others = (Image.new("L", (32, 32), level) for level in range(1, count + 1))
    return encoded(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_pictures_in_one_file_are_counted(kind: str) -> None:
    assert np.all(decoded(pages(4, kind)).pixels == 1)
    with pytest.raises(TooLarge, match="more than 4 images"):
        decoded(pages(5, kind))


def test_a_side_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="per side"):
        decoded(plain(1, (1, 200)), side=199)
    assert decoded(plain(1, (1, 200)), side=200).size.width == 200


@pytest.mark.parametrize("compression", [34925, 50000, 50001])
def test_neither_lzma_nor_zstandard_nor_webp_is_reached_through_a_tiff(compression: int) -> None:
    body = bytearray(encoded(Image.new("RGB", (32, 32)), "TIFF"))
    where = body.index(struct.pack("<HHI", 259, 3, 1)) + 8
    body[where : where + 2] = struct.pack("<H", compression)

    with pytest.raises(BadImage, match="not supported"):
        decoded(bytes(body))


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_tiff_may_be_compressed_as_cameras_do(compression: str) -> None:
    assert decoded(encoded(Image.new("RGB", (32, 32)), "TIFF", compression=compression)).size.width == 32
