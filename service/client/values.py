"""What a client sends and what it gets."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from service.client.errors import ClientError

Verdict = Literal["OK", "REVIEW", "NG"]
Part = Literal["heatmap", "mask", "regions", "overlay"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture to be inspected: JPEG, PNG, BMP or TIFF, as it comes from the camera or the file."""

    image: bytes = field(repr=False)
    product: str
    frame_id: str = ""
    """The part's name, at most 128 printable ASCII characters: it comes back with the answer."""
    version: int | None = None
    """None: the newest."""
    include: Collection[Part] = frozenset[Part]({"regions"})
    deadline: float | None = None
    """Seconds from `since` to the answer, retries included; None: the client's."""
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    since: float | None = None
    """The instant of `time.monotonic` from which the deadline counts: the picture's, or the trigger's.
    None: when the client takes the frame in hand."""


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area over the pixel threshold, in the sent picture's pixels; `peak` on the score scale."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: int
    png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds inside the service."""

    decode: float
    queue: float
    infer: float
    post: float
    encode: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict and all that belongs to it. A score of `threshold`, 0.5, is where rejecting begins."""

    request_id: str
    frame_id: str
    product: str
    version: int
    bundle_digest: str
    engine: str
    verdict: Verdict
    reason: str
    """Why, where the score alone does not say it."""
    score: float
    threshold: float
    raw_score: float
    raw_threshold: float
    width: int
    height: int
    """The sent picture's size, upright."""
    sha256: str
    regions: tuple[Region, ...]
    heatmap: Picture | None
    mask: Picture | None
    overlay: Picture | None
    timings_ms: Timings
    batch_size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a frame of a stream: an answer or an error, never both."""

    frame: Frame
    answer: Answer | None
    error: ClientError | None
    seconds: float
    """From the frame's `since` until it was known."""


@dataclass(frozen=True, slots=True)
class Product:
    """One version of one product, whether it serves or not."""

    name: str
    version: int
    state: str
    """STARTING, READY, DRAINING or FAILED."""
    reason: str
    engine: str
    bundle_digest: str
