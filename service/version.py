"""One version of one product: opened from its folder, and freed."""

import asyncio
import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.bundle import Bundle, BundleError, Predictor, TrustedKey, out_of_memory
from service.folder import Found
from service.lane import Lane
from service.logs import showable

State = Literal["STARTING", "READY", "DRAINING", "FAILED"]
"""State of a version, and of the service as a whole."""
Start = Callable[[Bundle, str], Predictor]
"""Starts a bundle's engine: `Bundle.start`, or a replacement in tests and benchmarks."""
_RETRY_SECONDS = 30


@dataclass(slots=True, eq=False)
class Version:
    """A version and its state. `lane` is set while it is loaded."""

    product: str
    number: int
    path: Path
    found: Found
    state: State = "STARTING"
    reason: str = ""
    retry_at: float = math.inf
    """When it is tried again though it did not change; an instant of `time.monotonic`."""
    absent: bool = False
    """Whether the last scan did not find it: one scan may miss what is being replaced."""
    lane: Lane | None = None
    unloading: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it takes no more requests: once replaced, it is kept for a while for those with its number."""

    @property
    def open_lane(self) -> Lane | None:
        """The lane, while it takes requests."""
        return None if self.unloading.is_set() else self.lane

    @property
    def engine(self) -> str | None:
        """The id of the engine it answers with."""
        return self.lane.engine if self.lane else None

    @property
    def skipped(self) -> Mapping[str, str]:
        """Engines preferred by the bundle but not used here, and why."""
        return self.lane.predictor.skipped if self.lane else {}

    @property
    def digest(self) -> str | None:
        """The loaded bundle's."""
        return self.lane.digest if self.lane else None

    def open(self, trusted: TrustedKey | None, start: Start, engine: str) -> Lane:
        """Starts and times its engine. Raises BundleError, or anything that a runtime raises."""
        if isinstance(self.found, str):
            raise BundleError(self.found)
        bundle = Bundle.open(self.path, trusted)
        says = bundle.manifest.product, bundle.manifest.version
        if says != (self.product, self.number):
            raise BundleError(f"{self.path}: the manifest says {says[0]} version {says[1]}")
        lane = Lane(start(bundle, engine))
        try:
            lane.measure()
        except BaseException:
            lane.predictor.close()  # another try may open it beside this one
            raise
        return lane

    def is_unchanged(self, trusted: TrustedKey | None) -> bool:
        """Whether the bundle on disk is whole and the one that was loaded."""
        assert self.lane is not None
        try:
            return Bundle.open(self.path, trusted).digest == self.lane.digest
        except BundleError:  # shown when it is loaded
            return False

    def fail(self, error: Exception) -> None:
        """Marks it FAILED because of `error`."""
        told = showable(str(error))
        self.state = "FAILED"
        self.reason = told if isinstance(error, BundleError) else f"{type(error).__name__}: {told}"
        self.retry_at = _retry_at(error)


def free(lane: Lane) -> None:
    """Closes the engine and returns its memory to the system: the C library would keep most of it."""
    lane.predictor.close()
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _retry_at(error: BaseException | None) -> float:
    """Errors of the machine may pass while the bundle stays the same; a bundle that is wrong stays wrong."""
    while error is not None:
        if isinstance(error, OSError) or out_of_memory(error):
            return time.monotonic() + _RETRY_SECONDS
        error = error.__cause__
    return math.inf
