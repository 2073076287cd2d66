"""Encoded test images."""

from io import BytesIO
from typing import Any

from PIL import Image

from tests.bundles import plain_frame


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(level: int, size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    """An image of one grey level; `size` is (height, width) in pixels."""
    return encoded(Image.fromarray(plain_frame(level, size)), kind)


def bomb(width: int = 10_000, height: int = 10_000) -> bytes:
    """A PNG of few bytes but by default 100 million pixels."""
    return encoded(Image.new("1", (width, height)))
