"""Scaled-down images for the operator page."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def preview_jpeg(rgb: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of `rgb` [h, w, 3] with at most `side` pixels per side."""
    image = Image.fromarray(rgb)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
