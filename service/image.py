"""From the bytes a caller sent to the network's input."""

import hashlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.bundle import IMAGE_FORMATS, Geometry, frame_statistics, to_rgb
from export.bundle import UnreadableImage as Unconvertible
from service.errors import TooLarge, UnlikeDeclared, UnreadableImage
from service.inspection import Decoded

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
_FORMAT_OF_PILLOW = {"MPO": "JPEG"}  # a JPEG with further pictures behind it, as phones write


def declared_type(header: str | None) -> str | None:
    """The media type of a Content-Type header, None if that says nothing; UnlikeDeclared if not served."""
    kind = (header or "").partition(";")[0].strip().lower()
    if kind in _TYPES_THAT_SAY_NOTHING:
        return None
    if kind not in _FORMAT_OF_TYPE:
        raise UnlikeDeclared(
            f"{kind[:100]!r} is not served: send image/jpeg, image/png, image/bmp or image/tiff"
        )
    return kind


def decode(body: bytes, geometry: Geometry, *, declared: str | None, max_pixels: int) -> Decoded:
    """The network's input for `geometry`, made from an encoded image.

    Raises UnreadableImage, UnlikeDeclared or TooLarge; the latter from the header, before a pixel is decoded.
    """
    with _opened(body, declared, max_pixels) as image:
        rgb = _rgb(image)
    height, width = rgb.shape[:2]
    pixels = geometry.apply(rgb)
    statistics = frame_statistics(pixels, (width, height))
    return Decoded(pixels, width, height, hashlib.sha256(body).hexdigest(), statistics)


def decode_rgb(body: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """The sent image itself, upright, uint8 [h, w, 3]."""
    with _opened(body, None, max_pixels) as image:
        return _rgb(image)


def _opened(body: bytes, declared: str | None, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(BytesIO(body), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image has more than {max_pixels} pixels") from error
    except Exception as error:  # the boundary to decoders: on damaged data they raise what they like
        raise UnreadableImage("the body is not a readable JPEG, PNG, BMP or TIFF image") from error
    kind = _FORMAT_OF_PILLOW.get(image.format or "", image.format)
    if declared is not None and _FORMAT_OF_TYPE[declared] != kind:
        raise UnlikeDeclared(f"declared as {declared}, but the content is {kind}")
    if image.width * image.height > max_pixels:
        raise TooLarge(
            f"{image.width} by {image.height} is more than the {max_pixels} pixels that are served"
        )
    return image


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    try:
        image.load()
        return to_rgb(image)
    except Unconvertible as error:
        raise UnreadableImage(str(error)) from error
    except Exception as error:  # as above
        raise UnreadableImage(f"the image is damaged ({error})") from error
