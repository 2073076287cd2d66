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
_LOOK_SECONDS = 0.5
_logger = logging.getLogger(__name__)


class Slot:
    """All lanes' queues, guarded by one lock. A batch that runs longer than `hang_seconds` hangs."""

    def __init__(self, follow: Next, hang_seconds: float) -> None:
        self._follow = follow
        self._hang_seconds = hang_seconds
        self._lanes = list[Lane]()
        self._running: Lane | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.failure: BaseException | None = None
        """What ended the thread before its time."""
        self._busy_since: float | None = None
        # A daemon: what hangs in a native runtime can't be ended, and may not keep the process from its end.
        self._thread = threading.Thread(target=self._guard, name="engine", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why no batch will be answered, in one line; empty while all is well."""
        since = self._busy_since
        if self.failure is not None:
            return "the engine's thread has ended"
        if since is not None and time.monotonic() - since > self._hang_seconds:
            return f"the engine hangs: it has been busy with one batch for more than {self._hang_seconds:g} s"
        return ""

    def add(self, lane: Lane) -> None:
        with self._changed:
            self._lanes.append(lane)

    def remove(self, lane: Lane) -> bool:
        """Takes `lane` out of the way of all others; whether none of its batches runs any more."""
        with self._changed:
            self._lanes.remove(lane)
            while self._running is lane and not self.trouble:
                self._changed.wait(_LOOK_SECONDS)
            return self._running is not lane

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
        """Returns when everything queued has been run, or never will be."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        while self._thread.is_alive() and not self.trouble:
            self._thread.join(_LOOK_SECONDS)

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
            self._running = self._busy_since = None
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
        self._busy_since = started
        try:
            prediction = _predict(lane, batch)
        except Exception as error:  # the boundary to the engine: what it raises fails this batch and no other
            _logger.exception("a batch of %d frames of %s failed", len(batch), lane.product)
            for frame in batch:
                if len(batch) > 1 and _out_of_memory(error):
                    frame.since = started  # for this frame, the attempt was waiting
                    self._infer(lane, [frame])
                else:
                    frame.settle(InspectionFailed("the engine failed on this frame"))
            return
        ended = time.monotonic()
        lane.pace.infer[len(batch)].learn(ended - started)
        for place, frame in enumerate(batch):
            frame.timings.infer, frame.since, frame.batch_size = ended - started, ended, len(batch)
            self._follow(frame, prediction, place)


def _predict(lane: Lane, batch: list[Frame]) -> Prediction:
    pixels = np.stack([frame.decoded.pixels for frame in batch if frame.decoded is not None])
    prediction = lane.predictor.predict(pixels)
    if not len(batch) == len(prediction.score) == len(prediction.heatmap):
        raise EngineFailed(f"{len(prediction.score)} answers to {len(batch)} frames")
    return prediction


def _out_of_memory(error: Exception) -> bool:
    """Runtimes have no error of their own for it, only words (CUDA's, ONNX Runtime's arena's)."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "failed to allocate memory" in said
