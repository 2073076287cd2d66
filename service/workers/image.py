"""Decodes the bytes of a caller's image: into the network's input, or scaled down for the operator page."""

import hashlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.bundle import IMAGE_FORMATS, Geometry, frame_statistics, one_line, to_rgb
from export.bundle import UnreadableImage as Unconvertible
from service.errors import TooLarge, UnlikeDeclared, UnreadableImage
from service.values import Decoded

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
_TIFF_COMPRESSIONS = {
    "raw",
    "packbits",
    "tiff_lzw",
    "tiff_adobe_deflate",
    "tiff_deflate",
    "jpeg",
    "tiff_ccitt",
    "group3",
    "group4",
    "tiff_raw_16",
}
"""Accepted in a TIFF: libtiff would also open WebP, Zstandard, LZMA and others, untested here."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Checked before a pixel is decoded: pixels in total and per side, and images in one file."""

    pixels: int
    side: int
    frames: int


def declared_type(header: str | None) -> str | None:
    """The media type of a Content-Type header; None if it is unspecific, UnlikeDeclared if unsupported."""
    kind = (header or "").partition(";")[0].strip().lower()
    if kind in _TYPES_THAT_SAY_NOTHING:
        return None
    if kind not in _FORMAT_OF_TYPE:
        raise UnlikeDeclared(
            f"{kind[:100]!r} is not supported: send image/jpeg, image/png, image/bmp or image/tiff"
        )
    return kind


def decode(body: bytes, geometry: Geometry, *, declared: str | None, limits: ImageLimits) -> Decoded:
    """The network's input for `geometry` from an encoded image; the first of several in one file.

    Raises UnreadableImage, UnlikeDeclared, or TooLarge: that from the header, before a pixel is decoded.
    """
    with _opened(body, declared, limits) as image:
        rgb = _rgb(image)
    height, width = rgb.shape[:2]
    pixels = geometry.apply(rgb)
    statistics = frame_statistics(pixels, (width, height))
    return Decoded(pixels, width, height, hashlib.sha256(body).hexdigest(), statistics)


def decode_rgb(body: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """The sent image itself, upright, uint8 [h, w, 3]."""
    with _opened(body, None, limits) as image:
        return _rgb(image)


def preview_jpeg(rgb: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of `rgb` [h, w, 3] with at most `side` pixels per side."""
    image = Image.fromarray(rgb)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _opened(body: bytes, declared: str | None, limits: ImageLimits) -> Image.Image:
    try:
        image = Image.open(BytesIO(body), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image has more than {limits.pixels} pixels") from error
    except MemoryError as error:
        raise TooLarge("the image's header needs more memory than is allowed") from error
    except Exception as error:  # decoders raise all kinds of exceptions on damaged data
        raise UnreadableImage("the body is not a readable JPEG, PNG, BMP or TIFF image") from error
    kind = _FORMAT_OF_PILLOW.get(image.format or "", image.format)
    if declared is not None and _FORMAT_OF_TYPE[declared] != kind:
        raise UnlikeDeclared(f"declared as {declared}, but the content is {kind}")
    _check(image, limits)
    return image


def _check(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.pixels:
        raise TooLarge(f"{image.width} by {image.height} is more than the limit of {limits.pixels} pixels")
    if max(image.size) > limits.side:
        raise TooLarge(
            f"{image.width} by {image.height} is more than the limit of {limits.side} pixels per side"
        )
    if image.format == "TIFF" and image.info.get("compression") not in _TIFF_COMPRESSIONS:
        raise UnreadableImage(f"a TIFF compressed as {image.info.get('compression')!s:.50} is not supported")
    if _more_frames(image, limits.frames):
        raise TooLarge(f"the file has more than {limits.frames} images")


def _more_frames(image: Image.Image, most: int) -> bool:
    """Whether the file has more than `most` images, without reading further than that."""
    try:
        if image.format != "TIFF":
            return getattr(image, "n_frames", 1) > most  # the header says it
        try:
            image.seek(most)
        except EOFError:
            return False
        finally:
            image.seek(0)
    except Exception as error:  # as above
        raise UnreadableImage("a further image in the file is damaged") from error
    return True


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    try:
        image.load()
        return to_rgb(image)
    except Unconvertible as error:
        if isinstance(error.__cause__, MemoryError):
            raise _needs_too_much() from error
        raise UnreadableImage(one_line(error)) from error
    except MemoryError as error:
        raise _needs_too_much() from error
    except Exception as error:  # as above
        raise UnreadableImage(f"the image is damaged ({one_line(error)})") from error


def _needs_too_much() -> TooLarge:
    return TooLarge("decoding the image needs more memory than is allowed")
