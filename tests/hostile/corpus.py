"""The hostile corpus: thousands of images and forms nobody should send, the same ones for the same seed."""

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.hostile.images import (
    PNG_SIGNATURE,
    frames,
    good_pictures,
    png,
    png_chunk,
    png_chunks,
    run_length_bitmap,
    structures,
    tiff,
)
from tests.service.images import bomb, encoded, plain

EDGES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_IHDR = struct.Struct(">IIBBBBB")


@dataclass(frozen=True, slots=True)
class Case:
    """One request's body and what it is declared as; the name says what is wrong with it."""

    name: str
    body: bytes
    content_type: str = "application/octet-stream"


def corpus(seed: int = 0) -> Iterator[Case]:
    """Every case."""
    chance = random.Random(seed)
    good = good_pictures()
    for name, body in good.items():
        yield from _truncated(name, body, chance)
        yield from _flipped(name, body, chance)
        yield from _wrong_numbers(name, body, chance)
        yield from _polyglots(name, body)
        yield from _declared(name, body)
    yield from _sizes(good)
    yield from _bombs()
    yield from _png_chunks(good, chance)
    yield from _many_frames()
    yield from _metadata(good, chance)
    yield from _tiff_directories()
    yield from _other_formats()
    yield from _noise(chance)
    yield from _forms(good["jpeg"], chance)


def _truncated(name: str, body: bytes, chance: random.Random) -> Iterator[Case]:
    """At every structure, one byte around it, and in between."""
    offsets = {offset + more for offset in structures(body) for more in (-1, 0, 1)}
    offsets |= {chance.randrange(len(body)) for _ in range(15)}
    for offset in sorted(offsets):
        if 0 <= offset < len(body):
            yield Case(f"{name} cut off at {offset}", body[:offset])


def _flipped(name: str, body: bytes, chance: random.Random) -> Iterator[Case]:
    """Single bits near structures, and handfuls of them anywhere."""
    near = [offset + more for offset in structures(body) for more in range(4)]
    for number in range(70):
        mutated = bytearray(body)
        for _ in range(1 if number < 50 else chance.randrange(2, 40)):
            place = chance.choice(near) if number < 40 else chance.randrange(len(body))
            mutated[min(place, len(body) - 1)] ^= 1 << chance.randrange(8)
        yield Case(f"{name} with bits flipped, {number}", bytes(mutated))


def _wrong_numbers(name: str, body: bytes, chance: random.Random) -> Iterator[Case]:
    """Lengths, counts and offsets at their edges, in both byte orders."""
    for offset in structures(body):
        for value in chance.sample(EDGES, 3):
            for layout in (">I", "<I", ">H", "<H"):
                packed = struct.pack(layout, value & (0xFFFFFFFF if layout[1] == "I" else 0xFFFF))
                if offset + len(packed) <= len(body) and chance.random() < 0.35:
                    mutated = body[:offset] + packed + body[offset + len(packed) :]
                    yield Case(f"{name} with {value:#x} as {layout} at {offset}", mutated)


def _polyglots(name: str, body: bytes) -> Iterator[Case]:
    others = {
        "a page": b"<html><script>alert(1)</script>",
        "an archive": b"PK\x03\x04" + bytes(30),
        "a document": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj<<>>endobj",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file",
        "a GIF": b"GIF89a" + bytes(20),
    }
    for what, other in others.items():
        yield Case(f"{name} behind {what}", other + body)
        yield Case(f"{name} before {what}", body + other)


def _declared(name: str, body: bytes) -> Iterator[Case]:
    images = [f"image/{kind}" for kind in ("jpeg", "png", "bmp", "tiff", "gif")]
    for kind in (*images, "text/html", "multipart/form-data"):
        yield Case(f"{name} as {kind}", body, kind)
    yield Case(f"{name} as nonsense", body, "\x7f;;;=" + "x" * 500)


def _sizes(good: dict[str, bytes]) -> Iterator[Case]:
    """Huge and zero dimensions in few bytes, in every format's header."""
    sides = (0, 1, 65_535, 100_000, 2**31 - 1, 2**31, 2**32 - 1)
    for width in sides:
        for height in sides:
            for depth, colour in ((1, 0), (8, 2), (16, 6), (8, 3)):
                head = png_chunk(b"IHDR", _IHDR.pack(width, height, depth, colour, 0, 0, 0))
                data = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
                yield Case(
                    f"a PNG of {width}×{height}, {depth}/{colour}", png(head, data, png_chunk(b"IEND", b""))
                )
            size = struct.pack("<II", width, height)
            yield Case(f"a BMP of {width}×{height}", good["bmp"][:18] + size + good["bmp"][26:])
            tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height}
            yield Case(f"a TIFF of {width}×{height}", tiff(tags, [bytes(100)]))
            place = good["jpeg"].index(b"\xff\xc0") + 5
            small = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
            yield Case(
                f"a JPEG of {width}×{height}", good["jpeg"][:place] + small + good["jpeg"][place + 4 :]
            )
    for tile in (0, 16, 65_536, 2**31 - 16):
        tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile}
        yield Case(f"a TIFF of tiles of {tile}", tiff(tags, [bytes(256)] * 16, offsets=324, counts=325))


def _bombs() -> Iterator[Case]:
    zeros = zlib.compress(bytes(50_000_000), 9)
    yield Case("a PNG of 100 megapixels", bomb())
    yield Case("a PNG within the limit, all one colour", encoded(Image.new("1", (6000, 6000))))
    deflated = {256: 6000, 257: 6000, 258: 8, 259: 8, 262: 1, 277: 1, 278: 6000}
    yield Case("a TIFF that unpacks to more than it says", tiff(deflated, [zeros]))
    yield Case("a TIFF of one strip, many times", tiff({**deflated, 278: 1}, [zeros[:100]] * 6000))
    head = png_chunk(b"IHDR", _IHDR.pack(8, 8, 8, 0, 0, 0, 0))
    end = png_chunk(b"IDAT", zlib.compress(bytes(72))) + png_chunk(b"IEND", b"")
    for kind, data in {
        b"zTXt": b"Comment\0\0" + zeros,
        b"iTXt": b"Comment\0\1\0\0\0" + zeros,
        b"iCCP": b"profile\0\0" + zeros,
    }.items():
        for times in (1, 50):
            yield Case(
                f"a PNG with {times} {kind!r} that unpack to 50 MB",
                png(head, png_chunk(kind, data) * times, end),
            )
    yield Case("a PNG whose data go on and on", png(head, png_chunk(b"IDAT", zeros), png_chunk(b"IEND", b"")))
    yield Case("a PNG of many empty data", png(head, png_chunk(b"IDAT", b"") * 50_000, end))
    yield Case("a BMP of short runs", run_length_bitmap(np.zeros((1500, 1500), np.uint8)))
    scans = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    scan = scans[scans.index(b"\xff\xda") : scans.rindex(b"\xff\xd9")]
    yield Case("a JPEG of very many scans", scans[:-2] + scan * 20 + b"\xff\xd9")


def _png_chunks(good: dict[str, bytes], chance: random.Random) -> Iterator[Case]:
    """Chunks repeated, missing, out of order or with other contents: the checksums are right."""
    for name in ("png", "png-palette", "png-16", "png-alpha-text", "png-animated"):
        chunks = list(png_chunks(good[name]))
        for number in range(80):
            changed = list(chunks)
            place = chance.randrange(len(changed))
            kind, data = changed[place]
            match number % 5:
                case 0:
                    del changed[place]
                case 1:
                    changed.insert(chance.randrange(len(changed)), (kind, data))
                case 2:
                    chance.shuffle(changed)
                case 3:
                    changed[place] = kind, chance.randbytes(len(data))
                case _:
                    changed[place] = kind, data[: chance.randrange(len(data) + 1)] + chance.randbytes(3)
            made = [png_chunk(kind, data) for kind, data in changed]
            if number % 7 == 0:
                made[place % len(made)] = png_chunk(kind, data, length=chance.choice(EDGES))
            yield Case(f"{name} with other chunks, {number}", png(*made))


def _many_frames() -> Iterator[Case]:
    for kind in ("TIFF", "PNG", "MPO"):
        for count in (2, 16, 17, 200):
            yield Case(f"{count} pictures in a {kind}", frames(count, kind))
    for claimed in EDGES:
        body = frames(3, "PNG")
        (control,) = [data for kind, data in png_chunks(body) if kind == b"acTL"]
        said = png_chunk(b"acTL", struct.pack(">I", claimed) + control[4:])
        yield Case(f"a PNG that says {claimed} frames", body.replace(png_chunk(b"acTL", control), said))


def _metadata(good: dict[str, bytes], chance: random.Random) -> Iterator[Case]:
    """EXIF, ICC and XMP that mean nothing, or too much."""
    image = Image.new("RGB", (16, 16), (9, 9, 9))
    for number in range(120):
        packed = _exif(chance, orientation=chance.choice([0, 1, 3, 5, 6, 8, 9, 255, 65_535]))
        for kind in ("JPEG", "PNG"):
            yield Case(f"a {kind} with EXIF {number}", encoded(image, kind, exif=packed))
    for size in (0, 1, 127, 128, 65_000):
        for kind in ("JPEG", "PNG", "TIFF"):
            yield Case(
                f"a {kind} with an ICC profile of {size}",
                encoded(image, kind, icc_profile=chance.randbytes(size)),
            )
    loop = (
        b"Exif\0\0II*\0"
        + struct.pack("<IH", 8, 1)
        + struct.pack("<HHII", 0x8769, 4, 1, 8)
        + struct.pack("<I", 8)
    )
    yield Case("a JPEG whose EXIF points to itself", encoded(image, "JPEG", exif=loop))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><!ENTITY a "&a;&a;">' + b'tiff:Orientation="6"' * 5000
    yield Case("a PNG with absurd XMP", encoded(image, pnginfo=None, xmp=xmp))
    yield Case(
        "a JPEG of comments", good["jpeg"][:2] + b"\xff\xfe\xff\xffx" + bytes(65_532) + good["jpeg"][2:]
    )
    for application in range(0xE0, 0xF0):
        segment = bytes((0xFF, application)) + struct.pack(">H", 400) + chance.randbytes(398)
        yield Case(
            f"a JPEG with a segment {application:#x}", good["jpeg"][:2] + segment * 20 + good["jpeg"][2:]
        )


def _exif(chance: random.Random, orientation: int) -> bytes:
    """A directory of tags, types, counts and places at random behind one that means something."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    for _ in range(number := chance.randrange(1, 20)):
        count, place = chance.choice((1, 4, 20, *EDGES)), chance.choice((8, 30, *EDGES))
        entries += struct.pack("<HHII", chance.randrange(65_536), chance.randrange(1, 14), count, place)
    directory = struct.pack("<H", number + 1) + entries + struct.pack("<I", chance.choice((0, 8)))
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + chance.randbytes(50)


def _tiff_directories() -> Iterator[Case]:
    """Directories that loop, never end, or whose tags all lie on the whole file."""
    plain_tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 8}
    body = tiff(plain_tags, [bytes(64)])
    end = 10 + 12 * (len(plain_tags) + 2)
    for back in (8, 0, 4, 2**32 - 1, len(body)):
        yield Case(
            f"a TIFF whose next directory is at {back}",
            body[:end] + struct.pack("<I", back) + body[end + 4 :],
        )
    for count in (100, 5000, 65_535):
        entries = b"".join(struct.pack("<HHII", n, 1, 500_000, 8) for n in range(count))
        directory = struct.pack("<H", count) + entries + bytes(4)
        yield Case(
            f"a TIFF of {count} tags over all of it",
            struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(500_000),
        )
    many = b"".join(
        struct.pack("<HHHII", 1, 256, 4, 1, 8) + struct.pack("<I", 8 + 18 * (n + 1)) for n in range(20_000)
    )
    yield Case("a TIFF of 20,000 directories", struct.pack("<2sHI", b"II", 42, 8) + many)
    compressions = (0, 5, 6, 7, 8, 99, 32_766, 32_809, 32_946, 34_676, 34_712, 34_925, 50_000, 50_001, 65_535)
    for compression in compressions:
        for bits in (1, 8, 16, 64):
            tags = {**plain_tags, 258: bits, 259: compression}
            yield Case(f"a TIFF compressed as {compression}, {bits} bits", tiff(tags, [bytes(range(64))]))
    ids = (254, 258, 262, 266, 273, 274, 277, 278, 279, 282, 284, 317, 320, 322, 330, 338, 339, 347, 532, 700)
    for tag in ids:
        for value in EDGES:
            yield Case(f"a TIFF with {value:#x} in tag {tag}", tiff({**plain_tags, tag: value}, [bytes(64)]))


def _other_formats() -> Iterator[Case]:
    for kind in ("GIF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "PCX", "SGI", "DDS", "PDF", "EPS", "AVIF"):
        yield Case(f"a {kind}", encoded(Image.new("RGB", (32, 32)), kind))
        yield Case(f"a {kind} as a PNG", encoded(Image.new("RGB", (32, 32)), kind), "image/png")
    yield Case("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')


def _noise(chance: random.Random) -> Iterator[Case]:
    yield Case("nothing", b"")
    for magic in (b"", PNG_SIGNATURE, b"\xff\xd8\xff\xe0", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"GIF89a"):
        for size in (1, 10, 100, 1000, 5000, 20_000):
            for number in range(5):
                yield Case(f"{size} random bytes behind {magic!r}, {number}", magic + chance.randbytes(size))


def _forms(image: bytes, chance: random.Random) -> Iterator[Case]:
    """multipart/form-data: the good one with anything wrong that a form can have."""
    kind = "multipart/form-data; boundary=xyz"
    part = (
        b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n"
    )
    good = part + image + b"\r\n--xyz--\r\n"
    yield Case("a form", good, kind)
    for offset in [*range(0, len(part) + 20, 3), *range(len(good) - 20, len(good))]:
        yield Case(f"a form cut off at {offset}", good[:offset], kind)
    for number in range(150):
        mutated = bytearray(good)
        for _ in range(1 + number % 4):
            mutated[chance.randrange(len(part)) if number % 3 else chance.randrange(len(good))] = (
                chance.randrange(256)
            )
        yield Case(f"a form with other bytes, {number}", bytes(mutated), kind)
    for other in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=abc",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=" + "x" * 3000,
        "multipart/mixed; boundary=xyz",
    ):
        yield Case(f"a form as {other[:40]}", good, other)
    yield Case("a form with 5,000 parts", part.replace(b"image", b"other") * 5000 + good, kind)
    yield Case("a form with two images", (part + image + b"\r\n") * 2 + b"--xyz--\r\n", kind)
    yield Case(
        "a form with an endless head",
        part[:-4] + b"\r\nX: " + b"y" * 300_000 + b"\r\n\r\n" + image + b"\r\n--xyz--",
        kind,
    )
    yield Case(
        "a form with very many heads",
        part[:-2] + b"X: y\r\n" * 50_000 + b"\r\n" + image + b"\r\n--xyz--",
        kind,
    )
    yield Case("a form of boundaries", b"--xyz\r\n" * 50_000, kind)
    yield Case(
        "a form in a form", part + b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n" + good, kind
    )
    yield Case("an empty image in a form", part + b"\r\n--xyz--\r\n", kind)
    yield Case("a good image at last", plain(40))
