"""What a client sends and receives."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from service.client.errors import ClientError

Verdict = Literal["OK", "REVIEW", "NG"]
Part = Literal["heatmap", "mask", "regions", "overlay"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One image to be inspected: the bytes of a JPEG, PNG, BMP or TIFF file."""

    image: bytes = field(repr=False)
    product: str
    frame_id: str = ""
    """Identifies the part, at most 128 printable ASCII characters; echoed in the answer."""
    version: int | None = None
    """None or 0: the newest."""
    include: Collection[Part] = frozenset[Part]({"regions"})
    deadline: float | None = None
    """Seconds from `since` to the answer, retries included; None: the client's default."""
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Empty: one is made, by the client or the service."""
    since: float | None = None
    """The instant of `time.monotonic` from which the deadline counts, such as the trigger's. None: when the
    client takes the frame."""


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area over the pixel threshold, in pixels of the sent image; `peak` is a score, 0 to 1."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True)
class Picture:
    """What the service drew: a heatmap, mask or overlay. Width and height in pixels."""

    width: int
    height: int
    png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent in the service."""

    decode: float
    queue: float
    infer: float
    post: float
    encode: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict with its details. `score` is between 0 and 1; parts above `threshold`, 0.5, are rejected."""

    request_id: str
    frame_id: str
    product: str
    version: int
    bundle_digest: str
    engine: str
    verdict: Verdict
    reason: str
    """Why, if not by the score alone."""
    unfamiliar: tuple[str, ...]
    """The frame statistics outside calibration's range, if `unlike_training`."""
    score: float
    threshold: float
    raw_score: float
    raw_threshold: float
    width: int
    height: int
    """The upright sent image's size in pixels."""
    sha256: str
    regions: tuple[Region, ...]
    heatmap: Picture | None
    mask: Picture | None
    overlay: Picture | None
    timings_ms: Timings
    batch_size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a frame in a stream: an answer or an error, never both."""

    frame: Frame
    answer: Answer | None
    error: ClientError | None
    seconds: float
    """From the frame's `since` to the outcome."""


@dataclass(frozen=True, slots=True)
class Product:
    """One version of one product, in any state."""

    name: str
    version: int
    state: str
    """STARTING, READY, DRAINING or FAILED."""
    reason: str
    engine: str
    bundle_digest: str
