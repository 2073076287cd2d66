"""Heatmap, mask and overlay as PNG, with the fastest compression."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.bundle.reading import nearest_cells
from export.bundle.scale import THRESHOLD
from training.geometry import Size

_GREEN = [int(255 * min(1.0, max(0.0, 1.5 - value / 127.5))) for value in range(256)]
"""Green for each grey value of the heatmap, beside red 255 and blue 0: yellow up to half the threshold (64),
orange at the threshold (128), red from one and a half times (191)."""

_OPACITY = [int(170 * min(1.0, max(0.0, value / 127.5 - 0.4))) for value in range(256)]
"""Opacity of that colour, 0 to 170 of 255: nothing below 0.4 of the threshold."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG file."""

_UP = 2
"""PNG filter type 2: each byte minus the one above it."""


def heatmap_png(pixel_scores: NDArray[np.float32]) -> bytes:
    """`pixel_scores` s `[H, W]`, 0 to 1, as 8-bit grey: round(255·s), so the threshold is 128."""
    return _grey_png(_grey(pixel_scores), pixel_scores.shape[1], bits=8)


def mask_png(pixel_scores: NDArray[np.float32], source_size: Size) -> bytes:
    """1-bit, of the sent image's size: white where `pixel_scores` `[H, W]` reach 0.5."""
    rows, columns = nearest_cells(pixel_scores.shape, source_size)
    wide = (pixel_scores >= THRESHOLD).take(columns, axis=1)  # indexing gives column-major: slow to pack
    return _grey_png(np.packbits(wide, axis=1)[rows], source_size.width, bits=1)


def overlay_png(rgb: NDArray[np.uint8], pixel_scores: NDArray[np.float32]) -> bytes:
    """The sent image uint8 `[h, w, 3]` under the heatmap, transparent to red; the mask's outline is white."""
    size = Size.of(rgb)
    heat = Image.fromarray(_grey(pixel_scores)).resize(size, Image.Resampling.BILINEAR)
    colour = Image.merge(
        "RGB", (Image.new("L", heat.size, 255), heat.point(_GREEN), Image.new("L", heat.size, 0))
    )
    overlay = np.array(Image.composite(colour, Image.fromarray(rgb), heat.point(_OPACITY)))
    rows, columns = nearest_cells(pixel_scores.shape, size)
    overlay[_outline((pixel_scores >= THRESHOLD)[rows][:, columns])] = (255, 255, 255)
    buffer = BytesIO()
    Image.fromarray(overlay).save(buffer, "PNG", compress_level=1)  # four times faster than the default level
    return buffer.getvalue()


def _grey(pixel_scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(255 * pixel_scores.astype(np.float64)).astype(np.uint8)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of `mask` `[h, w]` with a neighbour (left, right, above or below) outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _grey_png(rows: NDArray[np.uint8], width: int, *, bits: int) -> bytes:
    """A grey PNG with `bits` per pixel, packed in `rows` uint8 [h, bytes].

    Takes less than half of Pillow's time, which tries every filter on every row: for a smooth map, the
    difference to the row above is always a good one.
    """
    filtered = np.full((rows.shape[0], 1 + rows.shape[1]), _UP, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, rows.shape[0], bits, 0, 0, 0, 0)
    data = deflate.compress(filtered.data) + deflate.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
