"""The region of interest: the part of the image that is inspected. It becomes a constant mask in the graph.

    {"unit": "pixel", "image_size": [300, 300],
     "shapes": [{"rectangle": [20, 20, 260, 120]}, {"polygon": [[30, 160], [270, 160], [150, 280]]}]}

A rectangle is x, y, width, height. With the unit "fraction", all values are fractions of the image's width
and height (0 to 1), and `image_size` (width, height) is left out.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from export.bundle.manifest import Point, RegionOfInterest
from export.bundle.strict import StrictModel
from training.geometry import Geometry, Size
from training.images import upright_size
from training.messages import first_error

_FINE = 8
"""Sample points per pixel and direction, to tell whether half of it is covered."""

_SAME_SHAPE = 0.02
"""Difference of aspect ratios up to which the shape is the same, at whatever resolution."""

Side = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]


class RoiError(ValueError):
    """The file does not describe a valid region of interest."""


class _Shape(StrictModel):
    rectangle: tuple[float, float, Length, Length] | None = None
    polygon: Annotated[tuple[Point, ...], Field(min_length=3)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.rectangle is None) == (self.polygon is None):
            raise ValueError("either a rectangle or a polygon is required")
        return self

    def corners(self) -> tuple[Point, ...]:
        if self.rectangle is None:
            return self.polygon or ()
        x, y, width, height = self.rectangle
        return (x, y), (x + width, y), (x + width, y + height), (x, y + height)


class _Drawing(StrictModel):
    unit: Literal["fraction", "pixel"]
    image_size: tuple[Side, Side] | None = None
    shapes: Annotated[tuple[_Shape, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_its_size(self) -> Self:
        if (self.unit == "pixel") != (self.image_size is not None):
            raise ValueError("image_size is required with the unit pixel, and not allowed with another")
        return self


@dataclass(frozen=True, slots=True)
class Roi:
    """The region in the file `path`, and its `mask` bool `[H, W]` for the network's input. `drawn_for` is the
    size of the images, if it was drawn in pixels."""

    path: Path
    region: RegionOfInterest
    mask: NDArray[np.bool_]
    drawn_for: Size | None

    def check_shape(self, images: Iterable[Path]) -> None:
        """Raises RoiError if it was drawn for a shape that none of the product's `images` has: width and
        height exchanged, or another camera's, would inspect another part of the image."""
        if self.drawn_for is None:
            return
        width, height = self.drawn_for
        sizes = set[Size]()
        for size in map(upright_size, images):
            if abs(width * size.height / (height * size.width) - 1) < _SAME_SHAPE:
                return
            sizes.add(size)
        there = ", ".join(f"{size.width} × {size.height}" for size in sorted(sizes)[:3])
        raise RoiError(
            f"{self.path}: image_size is {width} × {height}, but the product's pictures are {there}"
        )


def read_roi(path: Path, geometry: Geometry) -> Roi:
    """Raises RoiError if it can't be read, leaves the image or covers nothing."""
    try:
        drawing = _Drawing.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise RoiError(f"{path}: the region of interest can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise RoiError(f"{path}: {first_error(error)}") from error
    width, height = drawing.image_size or (1, 1)
    polygons = tuple(tuple((x / width, y / height) for x, y in shape.corners()) for shape in drawing.shapes)
    for x, y in (corner for polygon in polygons for corner in polygon):
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise RoiError(f"{path}: the corner {x * width:g}, {y * height:g} lies outside the picture")
    mask = draw(polygons, geometry)
    if not mask.any():
        raise RoiError(f"{path}: the shapes cover nothing of the {geometry.width} × {geometry.height} input")
    region = RegionOfInterest(polygons=polygons, share=float(mask.mean()))
    return Roi(path, region, mask, drawing.image_size and Size(*drawing.image_size))


def draw(polygons: tuple[tuple[Point, ...], ...], geometry: Geometry) -> NDArray[np.bool_]:
    """Mask `[H, W]` of the input pixels that `polygons` (in fractions of width and height) cover by half."""
    width, height = geometry.width * _FINE, geometry.height * _FINE
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
    covered = np.zeros((height, width), bool)
    for polygon in polygons:
        covered |= inside_polygon(polygon, x, y)
    points = covered.reshape(geometry.height, _FINE, geometry.width, _FINE)
    mask: NDArray[np.bool_] = points.mean((1, 3)) >= 0.5
    return mask


def inside_polygon(
    polygon: tuple[Point, ...], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which grid points are inside, by the even-odd rule: to the left of an odd number of edges."""
    inside = np.zeros((y.size, x.size), bool)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if y0 != y1:
            crossing = x0 + (y - y0) * ((x1 - x0) / (y1 - y0))
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < crossing)
    return inside
