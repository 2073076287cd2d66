"""The engine slot: one thread per device, shared by all products.

The slot is held first and the queues are popped then, so batches form while the engine is busy: a lone frame
never waits for company, and no timer exists.
"""

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from export.bundle import EngineFailed, Prediction
from service.batching import Taken
from service.errors import DeadlinePassed, InspectionFailed, NotServing
from service.lane import Frame, Lane, Stage

Next = Callable[[Frame, Prediction, int], None]
"""What follows for a frame at the given place of a prediction."""
_logger = logging.getLogger(__name__)


class Slot:
    """All lanes' queues, guarded by one lock; `busy_since` is the instant the running batch began."""

    def __init__(self, follow: Next) -> None:
        self._follow = follow
        self._lanes = list[Lane]()
        self._running: Lane | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.failure: BaseException | None = None
        """What ended the thread before its time."""
        self.busy_since: float | None = None
        self._thread = threading.Thread(target=self._guard, name="engine")
        self._thread.start()

    def add(self, lane: Lane) -> None:
        with self._changed:
            self._lanes.append(lane)

    def remove(self, lane: Lane) -> None:
        """Returns when no batch of `lane` is running; none will."""
        with self._changed:
            self._lanes.remove(lane)
            self._changed.wait_for(lambda: self._running is not lane)

    def offer(self, frame: Frame) -> None:
        """Queues a decoded frame."""
        with self._changed:
            if self.failure is not None:
                raise NotServing("the engine's thread has ended", reason="failed", retry_after=5)
            if frame.left:
                return
            frame.stage = Stage.QUEUE
            frame.entry = frame.lane.queue.offer(frame, order=frame.order, expires=frame.request.deadline)
            self._changed.notify_all()

    def withdraw(self, frame: Frame) -> None:
        """Marks `frame` as left and frees its place, if it is still queued."""
        with self._changed:
            frame.left = True
            if frame.entry is not None:
                frame.lane.queue.withdraw(frame.entry)

    def close(self) -> None:
        """Returns when everything queued has been run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _guard(self) -> None:
        try:
            self._run()
        except Exception as error:  # the thread's end is the service's: it may not go unnoticed
            _logger.exception("the engine's thread has ended")
            with self._changed:
                self.failure = error
                for lane in self._lanes:
                    while lane.queue:
                        taken = lane.queue.take(time.monotonic())
                        for frame in taken.batch + taken.expired:
                            frame.settle(InspectionFailed("the engine's thread has ended"))

    def _run(self) -> None:
        while (work := self._next()) is not None:
            lane, taken = work
            for frame in taken.expired:
                frame.settle(DeadlinePassed("the deadline passed in the queue"))
            if taken.batch:
                self._infer(lane, taken.batch)

    def _next(self) -> tuple[Lane, Taken[Frame]] | None:
        """The most urgent lane and what it has for the engine, once there is something; None at the end."""
        with self._changed:
            self._running = self.busy_since = None
            self._changed.notify_all()
            while True:
                heads = [(head, lane) for lane in self._lanes if (head := lane.queue.head()) is not None]
                if heads:
                    _, self._running = min(heads, key=lambda head: head[0])
                    return self._running, self._running.queue.take(time.monotonic())
                if self._closing:
                    return None
                self._changed.wait()

    def _infer(self, lane: Lane, batch: list[Frame]) -> None:
        for frame in batch:
            started = frame.begin(Stage.INFER)
        self.busy_since = started
        try:
            pixels = np.stack([frame.decoded.pixels for frame in batch if frame.decoded is not None])
            prediction = lane.predictor.predict(pixels)
            if not len(batch) == len(prediction.score) == len(prediction.heatmap):
                raise EngineFailed(f"{len(prediction.score)} answers to {len(batch)} frames")
        except Exception:  # the boundary to the engine: whatever it raises fails this batch and no other
            _logger.exception("a batch of %d frames of %s failed", len(batch), lane.product)
            for frame in batch:
                frame.settle(InspectionFailed("the engine failed on this frame"))
            return
        ended = time.monotonic()
        lane.pace.infer[len(batch)].learn(ended - started)
        for place, frame in enumerate(batch):
            frame.timings.infer, frame.since, frame.batch_size = ended - started, ended, len(batch)
            self._follow(frame, prediction, place)
