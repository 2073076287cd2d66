"""A lane is one product version's way to its engine; a frame is one accepted request on it."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from export.bundle import Predictor
from service.batching import BatchQueue, Entry
from service.inspection import Decoded, Inspection, Request, Timings
from service.pace import Pace


class Stage(IntEnum):
    """How far a frame is."""

    DECODE = 0
    QUEUE = 1
    INFER = 2
    POST = 3


@dataclass(slots=True, eq=False)
class Frame:
    """One accepted request. Its stages run in threads; only its end is told to the event loop, and once."""

    request: Request
    lane: "Lane"
    order: float
    """Where it stands in every queue: its deadline, or the instant that frames without one are given."""
    answer: asyncio.Future[Inspection]
    since: float
    """When the last stage ended."""
    stage: Stage = Stage.DECODE
    left: bool = False
    """Nobody waits for the answer any more."""
    timings: Timings = field(default_factory=Timings)
    decoded: Decoded | None = None
    entry: Entry["Frame"] | None = None
    batch_size: int = 0

    def begin(self, stage: Stage) -> float:
        """Enters a stage that works; the time since the last one was waiting. The instant."""
        now = time.monotonic()
        self.timings.queue += now - self.since
        self.stage = stage
        return now

    def end(self, started: float) -> float:
        """Leaves a stage; how long it took."""
        self.since = time.monotonic()
        return self.since - started

    def settle(self, outcome: Inspection | Exception) -> None:
        """Ends the frame, from any thread. Whoever comes second comes too late."""
        self.answer.get_loop().call_soon_threadsafe(_settle, self.answer, outcome)


def _settle(answer: asyncio.Future[Inspection], outcome: Inspection | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Lane:
    """A started predictor with its queue and its pace."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.manifest = predictor.bundle.manifest
        self.product = self.manifest.product
        self.version = self.manifest.version
        self.digest = predictor.bundle.digest
        self.queue = BatchQueue[Frame](predictor.batch_sizes)
        self.pace = Pace(predictor.batch_sizes)
        self.frames = 0
        """Accepted and not yet answered."""
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one network input."""
        return self.manifest.geometry.height * self.manifest.geometry.width * 3

    def measure(self) -> None:
        """Runs every batch size once, so that the first deadlines are judged by something."""
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
