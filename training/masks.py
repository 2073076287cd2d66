"""Masks: where the defect is in an image."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.datasets import DatasetError
from training.geometry import DAMAGED, Geometry, Size, UnreadableImage, exif_transposed, grey_as_rgb
from training.images import open_image


def read_mask(path: Path, geometry: Geometry, image_size: Size) -> NDArray[np.bool_]:
    """The defect mask at the network's size, bool `[H, W]`: resized, then over one half. Raises DatasetError
    naming the file if it can't be read, or has not the shape of its image, which is of `image_size`."""
    try:
        with open_image(path) as image:
            mask = _marked(image)
    except DAMAGED as error:
        raise DatasetError(f"{path}: not a readable mask ({error})") from error
    size = Size.of(mask)
    if not _same_shape(size, image_size):
        raise DatasetError(
            f"{path}: a mask of {size.width}×{size.height} pixels has not the shape of its picture, "
            f"{image_size.width}×{image_size.height}"
        )
    return geometry.apply(grey_as_rgb(mask * np.uint8(255)))[:, :, 0] > 127


def _marked(image: Image.Image) -> NDArray[np.bool_]:
    """The pixels of a mask, upright, that are not black and not transparent."""
    least = 127 if image.format == "JPEG" else 0  # JPEG leaves faint traces around what was drawn
    upright = exif_transposed(image)
    if upright.mode in ("1", "L", "F") or upright.mode.startswith("I"):
        return np.asarray(upright) > least
    pixels = np.asarray(upright.convert("RGBA"))
    marked: NDArray[np.bool_] = np.any(pixels[:, :, :3] > least, axis=2)
    if np.ptp(pixels[:, :, 3]):  # otherwise transparency says nothing
        marked &= pixels[:, :, 3] > 0
        if not marked.any():
            raise UnreadableImage("all of it is black, only its transparency differs; save it without alpha")
    return marked


def _same_shape(mask: Size, image: Size) -> bool:
    """Same aspect ratio, up to one pixel of rounding."""
    return abs(mask.width * image.height - mask.height * image.width) <= max(image)
