"""A lane is one loaded product version with its queue of pending requests."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from export.bundle import Predictor
from service.batching import BatchQueue
from service.pace import Pace
from service.values import Decoded, EngineOutput, Request, Timings

_TIMED_RUNS = 3
"""Of each batch size, when a lane is measured."""


class Progress(IntEnum):
    """How far a pending request is, for forecasts. Coarser than the timings: encoding is part of READ."""

    DECODE = 0
    QUEUE = 1
    INFER = 2
    READ = 3


@dataclass(slots=True, eq=False)
class Pending:
    """A request that was accepted and is not answered yet."""

    request: Request
    lane: "Lane"
    order: float
    """Its sort key in every queue, by `Admission.order`. An instant of `time.monotonic`."""
    since: float
    """When the last step ended; an instant of `time.monotonic`."""
    predicted: asyncio.Future[EngineOutput]
    """Its result is set by the slot."""
    progress: Progress = Progress.DECODE
    timings: Timings = field(default_factory=Timings)
    decoded: Decoded = field(init=False)
    """Set before it is queued."""

    @property
    def overlay(self) -> bool:
        """Whether an overlay is drawn."""
        return "overlay" in self.request.parts

    def advance(self, progress: Progress, *spent: float) -> None:
        """`spent` are the seconds of the steps just done; the rest since the last ones was waiting."""
        now = time.monotonic()
        self.timings.queue += now - self.since - sum(spent)
        self.since, self.progress = now, progress


class Lane:
    """A started predictor with its queue and its pace."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.manifest = predictor.bundle.manifest
        self.manifest_json = self.manifest.model_dump_json().encode()
        """Sent to a worker with every map."""
        self.product = self.manifest.product
        self.version = self.manifest.version
        self.digest = predictor.bundle.digest
        self.engine = predictor.engine_id
        self.on_gpu = predictor.on_gpu
        self.queue = BatchQueue[Pending](predictor.batch_sizes)
        self.pace = Pace(predictor.batch_sizes)
        self.safety_factor = 1.0
        """Multiplies admission's forecasts; steered by how many answers come late."""
        self.last_probe = time.monotonic()
        """When a request was last admitted though it looked late, at first when the lane was made; an instant
        of `time.monotonic`."""
        self.pending = 0
        """Requests accepted and not yet answered."""
        self._empty = asyncio.Event()
        self._empty.set()

    def measure(self) -> None:
        """Times every batch size, so that the first deadlines can be judged. The fastest run counts: beside
        the version that this one replaces, which is at work, some take twice the time."""
        geometry = self.manifest.geometry
        for size, pace in self.pace.infer.items():
            frames = np.zeros((size, geometry.height, geometry.width, 3), np.uint8)
            pace.learn(min(self._seconds(frames) for _ in range(_TIMED_RUNS)))

    def _seconds(self, frames: NDArray[np.uint8]) -> float:
        started = time.monotonic()
        self.predictor.predict(frames)
        return time.monotonic() - started

    def enter(self) -> None:
        self.pending += 1
        self._empty.clear()

    def leave(self) -> None:
        self.pending -= 1
        if not self.pending:
            self._empty.set()

    async def emptied(self) -> None:
        """Returns when every accepted request has been answered."""
        await self._empty.wait()
