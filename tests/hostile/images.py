"""Good pictures of every served kind, and where their structures begin: what the corpus is made from."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.service.images import encoded

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def good_pictures() -> dict[str, bytes]:
    """One of each kind, small, all readable."""
    ramp = Image.linear_gradient("L").resize((48, 40))
    colour = Image.merge(
        "RGB",
        (
            ramp,
            ramp.rotate(90).resize(ramp.size),
            ramp.transpose(Image.Transpose.ROTATE_180).resize(ramp.size),
        ),
    )
    wide = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a part"
    text = PngInfo()
    text.add_text("Comment", "a part " * 20, zip=True)
    icc = bytes(range(256)) * 2
    pictures = {
        "jpeg": encoded(colour, "JPEG", quality=80),
        "jpeg-grey": encoded(ramp, "JPEG"),
        "jpeg-progressive": encoded(colour, "JPEG", progressive=True),
        "jpeg-cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "jpeg-exif-icc": encoded(colour, "JPEG", exif=exif.tobytes(), icc_profile=icc),
        "png": encoded(colour),
        "png-grey": encoded(ramp),
        "png-palette": encoded(colour.convert("P"), transparency=3),
        "png-16": encoded(wide),
        "png-alpha-text": encoded(colour.convert("RGBA"), pnginfo=text, exif=exif.tobytes(), icc_profile=icc),
        "bmp": encoded(colour, "BMP"),
        "bmp-palette": encoded(colour.convert("P"), "BMP"),
        "bmp-1": encoded(ramp.convert("1"), "BMP"),
        "bmp-rle": run_length_bitmap(np.asarray(ramp)),
        "tiff": encoded(colour, "TIFF", exif=exif.tobytes(), icc_profile=icc),
        "tiff-16": encoded(wide, "TIFF"),
        "tiff-big": encoded(colour, "TIFF", big_tiff=True),
        "tiff-tiled": _tiled(colour),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        pictures[f"tiff-{compression}"] = encoded(colour, "TIFF", compression=compression)
    pictures["tiff-group4"] = encoded(ramp.convert("1"), "TIFF", compression="group4")
    others = [ramp, colour.convert("L")]
    pictures["tiff-pages"] = encoded(ramp, "TIFF", save_all=True, append_images=others)
    pictures["png-animated"] = encoded(ramp, save_all=True, append_images=others)
    pictures["jpeg-mpo"] = encoded(ramp, "MPO", save_all=True, append_images=others)
    return pictures


def _tiled(image: Image.Image) -> bytes:
    """Tiles of 16 by 16, uncompressed, written by hand: Pillow only reads them."""
    pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % 16), (0, -width % 16)))
    tiles = [
        padded[top : top + 16, left : left + 16].tobytes()
        for top in range(0, height, 16)
        for left in range(0, width, 16)
    ]
    return tiff(
        {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16},
        tiles,
        offsets=324,
        counts=325,
    )


def tiff(tags: dict[int, int], strips: list[bytes], offsets: int = 273, counts: int = 279) -> bytes:
    """A little-endian TIFF of one page; `tags` are 32-bit values."""
    entries = {tag: [value] for tag, value in tags.items()}
    entries[counts] = [len(strip) for strip in strips]
    entries[offsets] = [0] * len(strips)
    after = 8 + 2 + 12 * len(entries) + 4
    arrays = after + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    entries[offsets] = [arrays + sum(map(len, strips[:number])) for number in range(len(strips))]
    directory, extra = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            directory += struct.pack("<HHII", tag, 4, len(values), after + len(extra))
            extra += packed
        else:
            directory += struct.pack("<HHI", tag, 4, 1) + packed
    return struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4) + extra + b"".join(strips)


def run_length_bitmap(grey: "np.ndarray[Any, np.dtype[np.uint8]]") -> bytes:
    """An 8-bit BMP in run lengths of one: it is unpacked in Python, slowly."""
    height, width = grey.shape
    runs = np.stack([np.ones_like(grey), grey], axis=2)[::-1].reshape(height, 2 * width)
    rows = b"".join(row.tobytes() + b"\x00\x00" for row in runs) + b"\x00\x01"
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    offset = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return head + info + palette + rows


def png_chunk(kind: bytes, data: bytes, *, length: int | None = None) -> bytes:
    """A chunk with its right checksum, and another length if one is given."""
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(body):
        length, kind = struct.unpack(">I4s", body[place : place + 8])
        yield kind, body[place + 8 : place + 8 + length]
        place += 12 + length


def png(*chunks: bytes) -> bytes:
    return PNG_SIGNATURE + b"".join(chunks)


def structures(body: bytes) -> list[int]:
    """Offsets at which a structure of the file begins."""
    if body.startswith(PNG_SIGNATURE):
        offsets, place = [0, 8], 8
        for _, data in png_chunks(body):
            offsets += [place + 4, place + 8, place + 8 + len(data), place + 12 + len(data)]
            place += 12 + len(data)
        return offsets
    if body.startswith(b"\xff\xd8"):
        return _jpeg_structures(body)
    if body.startswith(b"BM"):
        return [2, 6, 10, 14, 18, 22, 26, 28, 30, 34, 38, 46, 50, 54, struct.unpack("<I", body[10:14])[0]]
    return _tiff_structures(body)


def _jpeg_structures(body: bytes) -> list[int]:
    offsets, place = [0, 2], 2
    while place + 4 <= len(body) and body[place] == 0xFF:
        length = struct.unpack(">H", body[place + 2 : place + 4])[0]
        offsets += [place + 1, place + 2, place + 4, place + 2 + length]
        if body[place + 1] == 0xDA:
            break
        place += 2 + length
    return offsets


def _tiff_structures(body: bytes) -> list[int]:
    if body[2] == 43:  # BigTIFF
        return [2, 4, 8, 16, *range(16, min(len(body), 400), 20)]
    place = struct.unpack("<I", body[4:8])[0]
    count = struct.unpack("<H", body[place : place + 2])[0]
    return [2, 4, 8, place, *range(place + 2, place + 2 + 12 * count, 4), place + 2 + 12 * count]


def frames(count: int, kind: str) -> bytes:
    """So many pictures in one file."""
    first, *others = (Image.new("L", (8, 8), level % 256) for level in range(count))
    buffer = BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others)
    return buffer.getvalue()
