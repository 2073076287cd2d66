"""Image files: which are opened, and what is read from them. NumPy and Pillow only, as geometry.py."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from training.geometry import DAMAGED, Geometry, Size, UnreadableImage, frame_digest, to_rgb

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
"""Pillow's names of the formats that are ever opened."""

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

MAX_IMAGE_PIXELS = 40_000_000
"""Limit for images to learn from or measure on, and the service's default limit."""


def check_compression(image: Image.Image) -> None:
    """Raises UnreadableImage for one that is not accepted."""
    if image.format == "TIFF" and image.info.get("compression") not in _TIFF_COMPRESSIONS:
        raise UnreadableImage(f"a TIFF compressed as {image.info.get('compression')!s:.50} is not supported")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image at `path`, its pixels not yet decoded.

    Raises UnreadableImage, not naming the file, for more than `MAX_IMAGE_PIXELS` and what `check_compression`
    refuses; one of `DAMAGED` if it is missing, not one of `IMAGE_FORMATS`, or damaged.
    """
    too_large = f"more than {MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
    try:
        # Given a path, Pillow maps the file, and mixes up the rows of a grey TIFF that lies on its side.
        with path.open("rb") as file:
            with warnings.catch_warnings():  # of Pillow's own limit, which is higher
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(file, formats=IMAGE_FORMATS)
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UnreadableImage(too_large)
            check_compression(image)
            yield image
    except Image.DecompressionBombError as error:
        raise UnreadableImage(too_large) from error


def upright_size(path: Path) -> Size:
    """The size of what `read_rgb` returns, without decoding it. Raises UnreadableImage likewise."""
    with _opened(path) as image:
        # Pillow gives the size of a TIFF as it will be when it is turned, of others as it is stored.
        lies = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return Size(image.height, image.width) if lies else Size(image.width, image.height)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image at `path` as uint8 RGB `[h, w, 3]`. Raises UnreadableImage naming the file if it is missing,
    not one of `IMAGE_FORMATS`, too large or damaged."""
    with _opened(path) as image:
        return to_rgb(image)


def read_frames(paths: Iterable[Path], geometry: Geometry) -> NDArray[np.uint8]:
    """The frames of images, `[N, H, W, 3]`. Raises UnreadableImage naming the file."""
    return np.stack([geometry.apply(read_rgb(path)) for path in paths])


def image_digest(path: Path, geometry: Geometry) -> str:
    """`frame_digest` of the frame that an image becomes. Raises UnreadableImage."""
    return frame_digest(geometry.apply(read_rgb(path)))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Errors, of the block too, name the file."""
    try:
        with open_image(path) as image:
            yield image
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error
    except DAMAGED as error:
        raise UnreadableImage(f"{path}: not a readable image ({error})") from error
