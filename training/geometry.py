"""Image → frame, the network's input. The network is learned under this rule, and serves under the same one.

Here an *image* is a file or the bytes that were sent, a *frame* what the network takes.

NumPy and Pillow only: the service runs this file in an environment without torch.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Filter = Literal["bilinear", "bilinear-point"]
"""`bilinear` averages over the source area when it shrinks (antialiased); `bilinear-point` is the
paper's: four neighbours of the sample point, whatever the scale."""

SIDE_STEP = 32
"""Sides of the input are multiples of it: the greatest stride, that of the embedding."""
MAX_INPUT_SIDE = 4096
"""Longest side of the input, in pixels."""

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_EIGHT_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
"""8-bit value of each 16-bit grey: a lookup table needs no wider copy of the image."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by EXIF orientation."""
DAMAGED = (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, OverflowError, struct.error)
"""The exceptions that Pillow raises on damaged files; ValueError covers UnreadableImage."""


class Size(NamedTuple):
    """An image's size in pixels; width first, as in Pillow and on the wire."""

    width: int
    height: int

    @staticmethod
    def of(pixels: NDArray[np.generic]) -> "Size":
        """The size of an array `[height, width, …]`."""
        return Size(pixels.shape[1], pixels.shape[0])


class UnreadableImage(ValueError):
    """The image cannot be turned into RGB; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Input size of the network in pixels (multiples of 32, up to 4096) and the filter that leads there."""

    height: int
    width: int
    filter: Filter = "bilinear"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < SIDE_STEP or self.height % SIDE_STEP or self.width % SIDE_STEP:
            raise ValueError(
                f"input size {self.height}×{self.width}: both sides must be multiples of {SIDE_STEP}"
            )
        if max(self.height, self.width) > MAX_INPUT_SIDE:
            raise ValueError(
                f"input size {self.height}×{self.width}: no side may be longer than {MAX_INPUT_SIDE}"
            )

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stretch uint8 RGB `[h, w, 3]` to `[height, width, 3]`."""
        size = Size(self.width, self.height)
        grey = rgb.strides[2] == 0  # as `to_rgb` makes it: one channel is stretched for all three
        pixels = rgb[:, :, 0] if grey else rgb
        if Size.of(rgb) == size:
            stretched = pixels
        elif self.filter == "bilinear":
            stretched = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        else:
            return _point_sampled(rgb, size)
        return np.stack([stretched] * 3, axis=2) if grey else stretched


def frame_digest(frame: NDArray[np.uint8]) -> str:
    """SHA-256 of a frame's pixels, in hexadecimal: an image saved in another way has the same."""
    return hashlib.sha256(frame.tobytes()).hexdigest()


def _point_sampled(rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bilinear without antialiasing, to `size`, rounded."""
    # An affine transform samples at pixel centres and, outside the outermost ones, would give black: one
    # repeated pixel around the image keeps its border its own. In float, since Pillow truncates bytes.
    padded = np.pad(rgb, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.float32)
    source = Size.of(rgb)
    matrix = (source.width / size.width, 0.0, 1.0, 0.0, source.height / size.height, 1.0)
    planes = [
        Image.fromarray(plane).transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        for plane in np.moveaxis(padded, 2, 0)
    ]
    sampled: NDArray[np.float32] = np.stack([np.asarray(plane) for plane in planes], axis=2)
    return np.rint(sampled).astype(np.uint8)


def grey_as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[h, w]` as RGB `[h, w, 3]`, three times the same memory: it is stretched once, not three times."""
    return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Any image of the accepted formats as uint8 RGB `[h, w, 3]`, read-only: upright, without alpha.

    EXIF orientation is applied. 16-bit grey is scaled to 8 bits over its full range, not over what
    the image happens to hold, so that a dark one stays dark. Transparency is ignored, palette and
    CMYK are converted by Pillow.

    Raises UnreadableImage for floating-point pixels or integers of more than 16 bits (no known range), and
    for data that cannot be decoded.
    """
    try:
        upright = exif_transposed(image)
        if upright.mode == "F":
            raise UnreadableImage("floating-point pixels have no known range; send 8 or 16 bits per channel")
        if upright.mode in _SIXTEEN_BIT_MODES:
            wide = np.asarray(upright)
            if wide.dtype != np.uint16 and (wide.min() < 0 or wide.max() > 65535):
                raise UnreadableImage("pixels outside 0 to 65535; send 8 or 16 bits per channel")
            return grey_as_rgb(_EIGHT_BITS[wide])
        if upright.mode == "L":
            return grey_as_rgb(np.asarray(upright))
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return np.asarray(upright.convert("RGB"))
    except UnreadableImage:
        raise
    except (*DAMAGED, MemoryError) as error:
        raise UnreadableImage(f"picture cannot be decoded: {error}") from error


def exif_transposed(image: Image.Image) -> Image.Image:
    """`image`, decoded and made upright. Raises one of `DAMAGED` if it is damaged."""
    image.load()  # turns a TIFF by itself
    # Not by ImageOps.exif_transpose: it writes the EXIF data anew, and fails where they are slightly damaged.
    method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)
