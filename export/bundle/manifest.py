"""The manifest: all facts that export and service must agree on. Export writes it once; it never changes."""

import json
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError, model_validator

from export.bundle.frame import FrameRanges
from export.bundle.scale import Scale
from export.bundle.strict import StrictModel
from training.geometry import Geometry
from training.messages import first_error
from training.names import PRODUCT_NAME

SCHEMA_VERSION: Literal[1] = 1
"""Raised when a field comes, goes or gets another meaning: other programs refuse fields they don't know."""
GRAPH, FLOAT16_GRAPH, INT8_GRAPH = "model.onnx", "model.fp16.onnx", "model.int8.onnx"
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
"""The manifest's digest, in the format of `sha256sum -c`: a damaged or edited manifest is rejected."""

SIGNATURE = "model.sig"
"""The signature of all other files, if the bundle is signed."""

BatchSize = Literal[1, 2, 4, 8]
BATCH_SIZES: tuple[BatchSize, ...] = (1, 2, 4, 8)
"""All batch sizes in use: every engine is checked at each, and the batcher forms no others."""

GOLDEN_STEP = 4
"""Golden heatmaps are stored at every fourth pixel: see `Manifest.golden_heatmaps`."""

MAX_VERSION = 999_999_999
"""The highest version; the lowest is 1. Nine digits, which fit every integer type of the interfaces."""

MAX_GUARD_BAND = 0.02
"""Widest guard band, on the 0 to 1 scale: an engine that needs more deviates too much."""

MAX_HEATMAP_DEVIATION = 0.02
"""Limit for any pixel, on the 0 to 1 scale: regions and masks come from the map."""

FLOAT32_CONVOLUTIONS = 3
"""How many of the teacher's convolutions stay in float32 at least where the rest is bfloat16.

The filters of the first three compute small differences of large values: rounding there changes scores more
than all other rounding in the teacher.
"""

_REMEDY = "export it again with this program, or use the one that made it"
"""The manifest's digest was right, so it is not damaged."""


class BundleError(ValueError):
    """The bundle, or one of its engines, can't be used; the message is one line."""


def _inside_the_bundle(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not path.isprintable() or "\\" in path or ":" in path or not parts or "/".join(parts) != path:
        raise ValueError(f"{path!r} is not a plain relative path")
    if path.startswith("/") or ".." in parts or path in (MANIFEST, CHECKSUM, SIGNATURE):
        raise ValueError(f"{path!r} does not name a file of the bundle")
    return path


BundlePath = Annotated[str, AfterValidator(_inside_the_bundle)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ProductName = Annotated[str, Field(pattern=f"^{PRODUCT_NAME.pattern}$")]


class Thresholds(StrictModel):
    """Score scales of images and of pixels; `max_false_reject` is the error budget, a fraction."""

    image: Scale
    pixel: Scale
    calibration_size: Annotated[int, Field(ge=1)]
    max_false_reject: Annotated[float, Field(gt=0, lt=1)]
    promised: bool
    """Whether n calibration parts guarantee the error budget: it is at least 1/(n+1)."""


Flavour = Literal["tensorrt", "tensorrt-rtx"]


class Plan(StrictModel):
    """A TensorRT engine built at export: it runs only where all of this is the same."""

    file: BundlePath
    flavour: Flavour
    graph: Sha256
    """Digest of the graph it was built from."""
    version: str
    """Full version of TensorRT."""
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    precision: Literal["fp16"]
    profile: tuple[int, int, int]
    """Batch sizes: smallest, preferred, largest."""


class EngineEntry(StrictModel):
    """One way to run the network. `guard_band` and `heatmap_deviation` (the largest at export) are on the 0
    to 1 scales. If export could not run the engine, `heatmap_deviation` is None, and `guard_band` is None or
    the least it may have: what its graph needs on the CPU."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    file: BundlePath
    batch_sizes: tuple[BatchSize, ...] = BATCH_SIZES
    guard_band: Annotated[float, Field(ge=0, le=MAX_GUARD_BAND)] | None = None
    heatmap_deviation: Annotated[float, Field(ge=0)] | None = None
    float32_convolutions: Annotated[int, Field(ge=1)] = FLOAT32_CONVOLUTIONS
    """How many of the first ones, at least, stay in float32 if the engine computes in bfloat16."""
    plan: Plan | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Its files in the bundle."""
        return (self.file,) if self.plan is None else (self.file, self.plan.file)


GoldenKind = Literal["good", "defective", "pseudo-abnormal", "near-threshold"]


class GoldenFrame(StrictModel):
    """A network input stored as PNG, and the checkpoint's raw float32 score of it."""

    file: BundlePath
    kind: GoldenKind
    source: str
    raw_score: float


class Provenance(StrictModel):
    """How the bundle was made. `checkpoint`: digest of its tensors; `libraries`: version by name."""

    created: AwareDatetime
    checkpoint: Sha256
    recipe: str
    backbone: str
    seed: int
    libraries: dict[str, str]


Point = tuple[float, float]
"""x and y."""


class RegionOfInterest(StrictModel):
    """The inspected part of the image. The graph contains it as a mask; here it is recorded for people.

    `polygons`: corners as fractions of the sent image's width and height; `share`: fraction of the
    network's input that is inside.
    """

    polygons: Annotated[tuple[tuple[Point, ...], ...], Field(min_length=1)]
    share: Annotated[float, Field(gt=0, le=1)]


class Manifest(StrictModel):
    """The content of `manifest.json`: all that the service knows of a bundle before it opens another file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    product: ProductName
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    geometry: Geometry
    thresholds: Thresholds
    min_area: Annotated[int, Field(ge=0)]
    """Without a region of at least this area, in pixels of the sent image, NG becomes REVIEW. 0: no limit."""
    roi: RegionOfInterest | None = None
    """None: the whole image."""
    frame_ranges: FrameRanges
    engines: Annotated[tuple[EngineEntry, ...], Field(min_length=1)]
    """In order of preference, as measured at export."""
    golden: Annotated[tuple[GoldenFrame, ...], Field(min_length=1)]
    golden_heatmaps: BundlePath
    """The checkpoint's raw maps of them: float32 `[F, H/4, W/4]` as .npy, every fourth pixel of every fourth
    row. The map is computed on this grid and interpolated, so the rest carries no information."""
    provenance: Provenance
    files: dict[BundlePath, Sha256]
    """SHA-256 of every other file of the bundle, by relative path."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        used = {name for engine in self.engines for name in engine.files}
        used |= {self.golden_heatmaps, *(golden.file for golden in self.golden)}
        if missing := sorted(used - self.files.keys()):
            raise ValueError(f"{missing[0]!r} is used but has no digest")
        if any(1 not in engine.batch_sizes for engine in self.engines):
            raise ValueError("an engine can't run a single frame")
        if len({engine.id for engine in self.engines}) < len(self.engines):
            raise ValueError("an engine is listed twice")
        return self


def parse_manifest(content: bytes) -> Manifest:
    """Parses a manifest. Raises BundleError if it is invalid or another program's."""
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}") from error
    if isinstance(facts, dict) and (schema := facts.get("schema_version")) != SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST} has schema version {schema!r:.20}, but this program reads {SCHEMA_VERSION}: "
            f"{_REMEDY}"
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(
            f"{MANIFEST} is not as this program's drd-export writes it ({first_error(error)}): {_REMEDY}"
        ) from error
