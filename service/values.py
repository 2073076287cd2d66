"""The values that pass between the doors and the inspector."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from export.bundle import THRESHOLD, Finding, FrameStatistics, Size
from service.errors import BadParameter, DeadlinePassed

_TIMERS_DIFFER_SECONDS = 0.01
Door = Literal["http", "grpc"]
Part = Literal["heatmap", "mask", "regions", "overlay"]
PARTS: tuple[Part, ...] = get_args(Part)
_ID = re.compile(r"[\x20-\x7e]{0,128}")
_TYPE_BY_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"BM": "image/bmp",
}
DEFAULT_PARTS: frozenset[Part] = frozenset({"heatmap", "mask", "regions"})


@dataclass(slots=True)
class Timings:
    """Seconds. `queue` is all waiting between the other stages; `total` counts from the request's arrival."""

    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    post: float = 0.0
    encode: float = 0.0
    total: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        """By stage, rounded to microseconds, for answers and log lines."""
        return {stage: round(1000 * getattr(self, stage), 3) for stage in (*STAGES, "total")}


STAGES = tuple(field.name for field in fields(Timings) if field.name != "total")


@dataclass(frozen=True, slots=True)
class Request:
    """One inspection to be done. `arrived` and `deadline` are instants of `time.monotonic`."""

    image: bytes
    product: str
    arrived: float
    deadline: float | None = None
    version: int | None = None
    parts: frozenset[Part] = DEFAULT_PARTS
    declared: str | None = None
    """The media type that the caller declared; None: recognised by content."""

    def check_deadline(self) -> None:
        """Raises DeadlinePassed after the deadline: a late answer is none."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlinePassed("the deadline passed before there was an answer")


def cancelled_late(deadline: float | None) -> bool:
    """Whether what is cancelled now has reached its deadline: gRPC may cancel just before our own timer ends
    it."""
    return deadline is not None and time.monotonic() > deadline - _TIMERS_DIFFER_SECONDS


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels`, uint8 `[H, W, 3]`, is the network's input; `size` is the upright sent image's."""

    pixels: NDArray[np.uint8]
    size: Size
    sha256: str
    statistics: FrameStatistics


@dataclass(frozen=True, slots=True)
class PngPicture:
    """What was drawn for the caller: a heatmap, mask or overlay."""

    size: Size
    png: bytes


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The engine's raw output for one frame. `seconds` and `batch_size` are those of its batch."""

    heatmap: NDArray[np.float32]
    score: float
    seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """The finding of a map, the pictures that were asked for, and the map for the history."""

    finding: Finding
    pictures: Mapping[Part, PngPicture]
    heatmap: bytes | NDArray[np.float32]
    """A PNG if that was asked for, else the scores, float32 `[H, W]`."""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict, and what it came from."""

    product: str
    version: int
    bundle_digest: str
    engine: str
    finding: Finding
    raw_threshold: float
    guard_band: float
    size: Size
    """The upright sent image's."""
    sha256: str
    """The sent image's."""
    timings: Timings
    batch_size: int

    def facts(self, request_id: str, frame_id: str, *, regions: bool = True) -> dict[str, Any]:
        """The fields of an answer by their names on the wire, all but the pictures."""
        finding = self.finding
        facts: dict[str, Any] = {
            "request_id": request_id,
            "frame_id": frame_id,
            "product": self.product,
            "version": self.version,
            "bundle_digest": self.bundle_digest,
            "engine": self.engine,
            "verdict": finding.verdict,
            "reason": finding.reason,
            "unfamiliar": finding.unfamiliar,
            "score": finding.score,
            "threshold": THRESHOLD,
            "raw_score": finding.raw_score,
            "raw_threshold": self.raw_threshold,
            "image": {"width": self.size.width, "height": self.size.height, "sha256": self.sha256},
            "timings_ms": self.timings.milliseconds(),
            "batch_size": self.batch_size,
        }
        if regions:
            facts["regions"] = [
                {"x": r.x, "y": r.y, "width": r.width, "height": r.height, "area": r.area, "peak": r.peak}
                for r in finding.regions
            ]
        return facts


@dataclass(frozen=True, slots=True)
class SentImage:
    """The image file as it was sent, and its heatmap, as in `Rendered`. `size` is the upright image's."""

    file: bytes
    size: Size
    heatmap: bytes | NDArray[np.float32]

    @property
    def media_type(self) -> str:
        """One of `service.workers.image.IMAGE_TYPES`; the file has been decoded."""
        known = (kind for first, kind in _TYPE_BY_FIRST_BYTES.items() if self.file.startswith(first))
        return next(known, "image/tiff")

    @property
    def nbytes(self) -> int:
        heatmap = self.heatmap
        return len(self.file) + (len(heatmap) if isinstance(heatmap, bytes) else heatmap.nbytes)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A result with the parts of it that the caller asked for, and its images."""

    result: Result
    parts: frozenset[Part]
    pictures: Mapping[Part, PngPicture]
    image: SentImage

    def facts(self, request_id: str, frame_id: str) -> dict[str, Any]:
        """The result's fields, with the regions only if they were asked for."""
        return self.result.facts(request_id, frame_id, regions="regions" in self.parts)


def is_id(text: str) -> bool:
    """Whether `text` may be echoed and logged."""
    return _ID.fullmatch(text) is not None


def parse_id(name: str, text: str) -> str:
    """Returns `text` if it may be echoed and logged; raises BadParameter otherwise."""
    if not is_id(text):
        raise BadParameter(f"{name} must be at most 128 printable ASCII characters")
    return text


def parse_parts(names: Iterable[str]) -> frozenset[Part]:
    """The parts of an answer to include; empty names are ignored, unknown ones raise BadParameter."""
    wanted = {name for name in names if name}
    if unknown := wanted.difference(PARTS):
        raise BadParameter(f"include {min(unknown)[:100]!r}: there are {', '.join(PARTS)}")
    return frozenset(part for part in PARTS if part in wanted)
