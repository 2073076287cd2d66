"""Decodes the bytes of a caller's image: into the network's input, or scaled down for the operator page."""

import hashlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.bundle import (
    IMAGE_FORMATS,
    Geometry,
    Size,
    UnreadableImage,
    check_compression,
    frame_statistics,
    one_line,
    to_rgb,
)
from service.errors import BadImage, TooLarge, UnlikeDeclared
from service.values import Decoded

IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/tiff")
"""The media types that callers may declare, by their registered names."""
_FORMAT_OF_TYPE = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/bmp": "BMP",
    "image/x-bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/tiff": "TIFF",
}
_TYPES_THAT_SAY_NOTHING = {"", "application/octet-stream", "application/x-www-form-urlencoded"}
_FORMAT_OF_PILLOW = {"MPO": "JPEG"}  # a JPEG followed by more images, as phones write


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Checked before a pixel is decoded: pixels in total and per side, and images in one file."""

    pixels: int
    side: int
    images: int


def declared_type(header: str | None) -> str | None:
    """The media type of a Content-Type header; None if it is unspecific, UnlikeDeclared if unsupported."""
    media_type = (header or "").partition(";")[0].strip().lower()
    if media_type in _TYPES_THAT_SAY_NOTHING:
        return None
    if media_type not in _FORMAT_OF_TYPE:
        supported = f"{', '.join(IMAGE_TYPES[:-1])} or {IMAGE_TYPES[-1]}"
        raise UnlikeDeclared(f"{media_type[:100]!r} is not supported: send {supported}")
    return media_type


def decode(body: bytes, geometry: Geometry, *, declared: str | None, limits: ImageLimits) -> Decoded:
    """The network's input for `geometry` from an encoded image; the first of several in one file.

    Raises BadImage, UnlikeDeclared, MemoryError, or, from the header, before a pixel is decoded, TooLarge.
    """
    with _opened(body, declared, limits) as image:
        rgb = _rgb(image)
    height, width = rgb.shape[:2]
    size, pixels = Size(width, height), geometry.apply(rgb)
    return Decoded(pixels, size, hashlib.sha256(body).hexdigest(), frame_statistics(pixels, size))


def decode_rgb(body: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """The sent image itself, upright, uint8 `[h, w, 3]`. Raises as `decode`."""
    with _opened(body, None, limits) as image:
        return _rgb(image)


def preview_jpeg(rgb: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of `rgb` `[h, w, 3]` with at most `side` pixels per side."""
    image = Image.fromarray(rgb)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _opened(body: bytes, declared: str | None, limits: ImageLimits) -> Image.Image:
    if not body:
        raise BadImage("the image is empty: no byte of it was sent")
    try:
        image = Image.open(BytesIO(body), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image has more than {limits.pixels} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on damaged data
        raise BadImage("the body is not a readable JPEG, PNG, BMP or TIFF image") from error
    found = _FORMAT_OF_PILLOW.get(image.format or "", image.format)
    if declared is not None and _FORMAT_OF_TYPE[declared] != found:
        raise UnlikeDeclared(f"declared as {declared}, but the content is {found}")
    _check(image, limits)
    return image


def _check(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.pixels:
        raise TooLarge(f"{image.width} by {image.height} is more than the limit of {limits.pixels} pixels")
    if max(image.size) > limits.side:
        raise TooLarge(
            f"{image.width} by {image.height} is more than the limit of {limits.side} pixels per side"
        )
    try:
        check_compression(image)
    except UnreadableImage as error:
        raise BadImage(str(error)) from error
    if _has_more_images(image, limits.images):
        raise TooLarge(f"the file has more than {limits.images} images")


def _has_more_images(image: Image.Image, limit: int) -> bool:
    """Whether the file has more than `limit` images, without reading further than that."""
    try:
        if image.format != "TIFF":
            return getattr(image, "n_frames", 1) > limit  # the header says it
        try:
            image.seek(limit)
        except EOFError:
            return False
        finally:
            image.seek(0)
    except Exception as error:  # as above
        raise BadImage("a further image in the file is damaged") from error
    return True


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    try:
        image.load()
        return to_rgb(image)
    except UnreadableImage as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        raise BadImage(one_line(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise BadImage(f"the image is damaged ({one_line(error)})") from error
