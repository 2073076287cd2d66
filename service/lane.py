"""A lane is one loaded product version with its queue; a frame is one accepted request in it."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from export.bundle import Predictor
from service.batching import BatchQueue
from service.pace import Pace
from service.values import Decoded, Request, Timings


class Stage(IntEnum):
    """The stage a frame is in."""

    DECODE = 0
    QUEUE = 1
    INFER = 2
    POST = 3


@dataclass(frozen=True, slots=True)
class Predicted:
    """The engine's raw output for one frame. `seconds` and `batch_size` are those of its batch."""

    heatmap: NDArray[np.float32]
    score: float
    seconds: float
    batch_size: int


@dataclass(slots=True, eq=False)
class Frame:
    """One accepted request."""

    request: Request
    lane: "Lane"
    order: float
    """Its sort key in every queue, by `Admission.order`. An instant of `time.monotonic`."""
    since: float
    """When the last stage ended; an instant of `time.monotonic`."""
    predicted: asyncio.Future[Predicted]
    """Its result is set by the slot."""
    stage: Stage = Stage.DECODE
    timings: Timings = field(default_factory=Timings)
    decoded: Decoded | None = None

    def pass_on(self, stage: Stage, *spent: float) -> None:
        """To `stage`. `spent` are the seconds of the steps just done; the rest since then was waiting."""
        now = time.monotonic()
        self.timings.queue += now - self.since - sum(spent)
        self.since, self.stage = now, stage


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
        self.queue = BatchQueue[Frame](predictor.batch_sizes)
        self.pace = Pace(predictor.batch_sizes)
        self.caution = 1.0
        """Measured time over forecast time: corrects what the forecasts of admission leave out."""
        self.last_undated = 0.0
        """The order of the newest frame without a deadline."""
        self.frames = 0
        """Accepted and not yet answered."""
        self._empty = asyncio.Event()
        self._empty.set()

    def measure(self) -> None:
        """Times every batch size once, so that the first deadlines can be judged."""
        geometry = self.manifest.geometry
        for size, pace in self.pace.infer.items():
            frames = np.zeros((size, geometry.height, geometry.width, 3), np.uint8)
            started = time.monotonic()
            self.predictor.predict(frames)
            pace.learn(time.monotonic() - started)

    def enter(self) -> None:
        self.frames += 1
        self._empty.clear()

    def leave(self) -> None:
        self.frames -= 1
        if not self.frames:
            self._empty.set()

    async def emptied(self) -> None:
        """Returns when every accepted frame has been answered."""
        await self._empty.wait()
