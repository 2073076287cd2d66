"""The engine slot: one thread for the engines of all products.

Queues are popped only when the engine is free, so batches form while it is busy: a lone frame never waits for
others, and no timer is needed.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from export.bundle import Answer, EngineFailed, out_of_memory
from service.batching import Taken
from service.errors import DeadlinePassed, InspectionFailed, NotServing
from service.lane import Frame, Lane, Predicted, Stage
from service.metrics import Metrics
from service.threads import settle

_LOOK_SECONDS = 0.5
_BROKEN = 20
"""Batches that fail in a row until the engine counts as broken. A GPU that was lost does not come back within
the process, and other replicas, or this one after a restart, can do without it."""
_logger = logging.getLogger(__name__)


class Slot:
    """Runs the batches of all lanes; one lock guards their queues. A batch that runs longer than
    `hang_seconds` counts as hanging."""

    def __init__(self, metrics: Metrics, hang_seconds: float) -> None:
        self._metrics = metrics
        self._hang_seconds = hang_seconds
        self._lanes = list[Lane]()
        self._running: Lane | None = None
        self._batch = list[Frame]()
        """The frames the engine works on: they must be answered even if the thread ends."""
        self._changed = threading.Condition()
        self._closing = False
        self.failure: BaseException | None = None
        """The exception that ended the thread unexpectedly."""
        self._busy_since: float | None = None
        self._failed_in_a_row = 0
        # A daemon: a call that hangs in native code cannot be stopped, and must not block the process's exit.
        self._thread = threading.Thread(target=self._guard, name="engine", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why a restart is needed, in one line; empty while the engine works."""
        if self._failed_in_a_row >= _BROKEN:
            return f"the engine has failed on the last {self._failed_in_a_row} batches"
        return self._stuck

    @property
    def _stuck(self) -> str:
        """Why the engine answers no more batches; empty while it does."""
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
        """Removes `lane` and waits for its running batch; False if that hangs."""
        with self._changed:
            self._lanes.remove(lane)
            while self._running is lane and not self._stuck:
                self._changed.wait(_LOOK_SECONDS)
            return self._running is not lane

    async def run(self, frame: Frame) -> Predicted:
        """The engine's output for a decoded frame. Cancelling it frees the frame's place at once."""
        with self._changed:
            if self.failure is not None:
                raise NotServing("the engine's thread has ended", reason="failed", retry_after=5)
            queue = frame.lane.queue
            entry = queue.offer(frame, order=frame.order, expires=frame.request.deadline)
            self._changed.notify_all()
        try:
            return await frame.predicted
        finally:
            if frame.predicted.cancelled():
                with self._changed:
                    queue.withdraw(entry)

    def close(self) -> None:
        """Returns when all queued frames have been run, or the engine hangs or has failed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        while self._thread.is_alive() and not self._stuck:
            self._thread.join(_LOOK_SECONDS)

    def _guard(self) -> None:
        try:
            self._run()
        except BaseException as error:  # without this thread nothing is inspected: liveness must fail
            _logger.exception("the engine's thread has ended")
            with self._changed:
                self.failure = error
                frames = list(self._batch)
                for lane in self._lanes:
                    while lane.queue:
                        taken = lane.queue.take(time.monotonic())
                        frames += taken.batch + taken.expired
                if frames:
                    _settle_on_loop(
                        frames, [InspectionFailed("the engine's thread has ended") for _ in frames]
                    )

    def _run(self) -> None:
        while (work := self._next()) is not None:
            lane, taken = work
            if taken.expired:
                late = [DeadlinePassed("the deadline passed in the queue") for _ in taken.expired]
                _settle_on_loop(taken.expired, late)
            self._batch = taken.batch
            if taken.batch:
                self._infer(lane, taken.batch)
            self._batch = []

    def _next(self) -> tuple[Lane, Taken[Frame]] | None:
        """Waits for the most urgent lane and takes its batch; None when closing."""
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
            frame.stage = Stage.INFER
        self._busy_since = started = time.monotonic()
        try:
            prediction = _predict(lane, batch)
        except Exception as error:  # an engine may raise anything: it fails this batch only
            _logger.exception("a batch of %d frames of %s failed", len(batch), lane.product)
            if len(batch) > 1 and out_of_memory(error):
                for frame in batch:
                    self._infer(lane, [frame])
            else:
                self._failed_in_a_row += 1
                _settle_on_loop(batch, [InspectionFailed("the engine failed on this frame") for _ in batch])
            return
        self._failed_in_a_row = 0
        seconds = time.monotonic() - started
        lane.pace.infer[len(batch)].learn(seconds)
        self._metrics.batch_size.labels(lane.product).observe(len(batch))
        self._metrics.engine_busy_seconds.labels(lane.product).inc(seconds)
        answers = zip(prediction.heatmap, prediction.score, strict=True)
        _settle_on_loop(
            batch, [Predicted(each, float(score), seconds, len(batch)) for each, score in answers]
        )


def _settle_on_loop(frames: list[Frame], outcomes: Sequence[Predicted | Exception]) -> None:
    """Sets the results of the frames of a batch, on the event loop."""
    with suppress(RuntimeError):  # the loop is closed: a hanging call has returned after the shutdown
        frames[0].predicted.get_loop().call_soon_threadsafe(_settle, frames, outcomes)


def _settle(frames: list[Frame], outcomes: Sequence[Predicted | Exception]) -> None:
    for frame, outcome in zip(frames, outcomes, strict=True):
        settle(frame.predicted, outcome)


def _predict(lane: Lane, batch: list[Frame]) -> Answer:
    pixels = np.stack([frame.decoded.pixels for frame in batch if frame.decoded is not None])
    answer = lane.predictor.predict(pixels)
    if not len(batch) == len(answer.score) == len(answer.heatmap):
        raise EngineFailed(f"{len(answer.score)} answers for {len(batch)} frames")
    return answer
