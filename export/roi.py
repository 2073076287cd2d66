"""The region of interest: the part of the image that is inspected. It becomes a constant mask in the graph.

    {"unit": "pixel", "image_size": [300, 300],
     "shapes": [{"rectangle": [20, 20, 260, 120]}, {"polygon": [[30, 160], [270, 160], [150, 280]]}]}

A rectangle is x, y, width, height. With the unit "fraction", all values are fractions of the image's width
and height (0 to 1), and `image_size` (width, height) is left out.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.bundle.manifest import Point, RegionOfInterest
from training.geometry import Geometry, Size, upright_size
from training.messages import first_error

_FINE = 8
"""Factor by which shapes are drawn finer, to see which pixels are covered by half or more."""

_SAME_SHAPE = 0.02
"""Difference of aspect ratios up to which the shape is the same, at whatever resolution."""

Side = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]


class RoiError(ValueError):
    """The file does not describe a valid region of interest."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Rectangle(_Entry):
    rectangle: tuple[float, float, Length, Length]

    def corners(self) -> tuple[Point, ...]:
        x, y, width, height = self.rectangle
        return (x, y), (x + width, y), (x + width, y + height), (x, y + height)


class _Polygon(_Entry):
    polygon: Annotated[tuple[Point, ...], Field(min_length=3)]

    def corners(self) -> tuple[Point, ...]:
        return self.polygon


class _Drawing(_Entry):
    unit: Literal["fraction", "pixel"]
    image_size: tuple[Side, Side] | None = None
    shapes: Annotated[tuple[_Rectangle | _Polygon, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_its_size(self) -> Self:
        if (self.unit == "pixel") != (self.image_size is not None):
            raise ValueError("image_size is required with the unit pixel, and not allowed with another")
        return self


def read_roi(
    path: Path, geometry: Geometry, images: Iterable[Path]
) -> tuple[RegionOfInterest, NDArray[np.bool_]]:
    """The region in the file `path`, and its mask bool [H, W] for the network's input.

    Raises RoiError if it leaves the image, covers nothing, or was drawn for a shape that none of the
    product's `images` has; OSError if the file cannot be read.
    """
    try:
        drawing = _Drawing.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RoiError(f"{path}: {first_error(error)}") from error
    if drawing.image_size is not None:
        _check_shape(path, Size(*drawing.image_size), images)
    width, height = drawing.image_size or (1, 1)
    polygons = tuple(tuple((x / width, y / height) for x, y in shape.corners()) for shape in drawing.shapes)
    for x, y in (corner for polygon in polygons for corner in polygon):
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise RoiError(f"{path}: the corner {x * width:g}, {y * height:g} lies outside the picture")
    mask = draw(polygons, geometry)
    if not mask.any():
        raise RoiError(f"{path}: the shapes cover nothing of the {geometry.width} × {geometry.height} input")
    return RegionOfInterest(polygons=polygons, share=float(mask.mean())), mask


def _check_shape(path: Path, drawn_for: Size, images: Iterable[Path]) -> None:
    """Width and height exchanged, or another camera's, would inspect another part of the image."""
    sizes = set[Size]()
    for size in map(upright_size, images):
        if abs(drawn_for.width * size.height / (drawn_for.height * size.width) - 1) < _SAME_SHAPE:
            return
        sizes.add(size)
    there = ", ".join(f"{size.width} × {size.height}" for size in sorted(sizes)[:3])
    raise RoiError(
        f"{path}: image_size is {drawn_for.width} × {drawn_for.height}, "
        f"but the product's pictures are {there}"
    )


def draw(polygons: tuple[tuple[Point, ...], ...], geometry: Geometry) -> NDArray[np.bool_]:
    """Mask [H, W] of the input pixels that `polygons` (in fractions of width and height) cover by half."""
    fine = Image.new("L", (geometry.width * _FINE, geometry.height * _FINE))
    pen = ImageDraw.Draw(fine)
    for polygon in polygons:
        # Pillow addresses pixel centres and includes the outline: half a pixel less makes the area right
        pen.polygon([(x * fine.width - 0.5, y * fine.height - 0.5) for x, y in polygon], fill=255)
    return np.asarray(fine.reduce(_FINE)) >= 128
