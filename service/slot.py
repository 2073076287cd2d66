"""The engine slots: one thread per device for the engines of all products.

Queues are popped only when the engine is free, so batches form while it is busy: a lone frame never waits for
others, and no timer is needed.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from export.bundle import EngineFailed, Prediction
from service.batching import Taken
from service.errors import DeadlinePassed, InspectionFailed, NotServing
from service.lane import Lane, Pending, Progress
from service.metrics import Metrics
from service.threads import settle
from service.values import EngineOutput

_LOOK_SECONDS = 0.5
_MAX_FAILURES = 20
"""At so many failed batches in a row the engine counts as broken. A GPU that was lost does not come back
within the process, and other replicas, or this one after a restart, can do without it."""
_logger = logging.getLogger(__name__)


class Slots:
    """The CPU's and the GPU's: a product whose engine runs on the CPU doesn't hold up those on the GPU."""

    def __init__(self, metrics: Metrics, hang_seconds: float) -> None:
        self._slots = {on_gpu: Slot(metrics, hang_seconds) for on_gpu in (False, True)}

    def of(self, lane: Lane) -> "Slot":
        return self._slots[lane.on_gpu]

    @property
    def why_not_alive(self) -> str:
        """Why a restart is needed, in one line; empty while both work."""
        return next(filter(None, (slot.why_not_alive for slot in self._slots.values())), "")

    def close(self) -> None:
        """Returns when each has run all that is queued, or hangs or has failed."""
        for slot in self._slots.values():
            slot.close()


class Slot:
    """Runs the batches of its lanes; one lock guards their queues. A batch that runs longer than
    `hang_seconds` counts as hanging."""

    def __init__(self, metrics: Metrics, hang_seconds: float) -> None:
        self._metrics = metrics
        self._hang_seconds = hang_seconds
        self._lanes = list[Lane]()
        self._running: Lane | None = None
        self._batch = list[Pending]()
        """The batch on the engine: it must be answered even if the thread ends."""
        self._changed = threading.Condition()
        self._closing = False
        self._failed = False
        """Whether an exception has ended the thread."""
        self._busy_since: float | None = None
        self._failed_in_a_row = 0
        # A daemon: a call that hangs in native code cannot be stopped, and must not block the process's exit.
        self._thread = threading.Thread(target=self._guard, name="engine", daemon=True)
        self._thread.start()

    @property
    def why_not_alive(self) -> str:
        """Why a restart is needed, in one line; empty while the engine works."""
        if self._failed_in_a_row >= _MAX_FAILURES:
            return f"the engine has failed on the last {self._failed_in_a_row} batches"
        return self._stuck

    @property
    def _stuck(self) -> str:
        """Why the engine answers no more batches; empty while it does."""
        since = self._busy_since
        if self._failed:
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

    async def run(self, pending: Pending) -> EngineOutput:
        """The engine's output for a decoded image. Cancelling it frees its place in the queue at once."""
        with self._changed:
            if self._failed:
                raise NotServing("the engine's thread has ended", reason="failed", retry_after=5)
            queue = pending.lane.queue
            entry = queue.offer(pending, order=pending.order, expires=pending.request.deadline)
            self._changed.notify_all()
        try:
            return await pending.predicted
        finally:
            if pending.predicted.cancelled():
                with self._changed:
                    queue.withdraw(entry)

    def close(self) -> None:
        """Returns when all that is queued has been run, or the engine hangs or has failed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        while self._thread.is_alive() and not self._stuck:
            self._thread.join(_LOOK_SECONDS)

    def _guard(self) -> None:
        try:
            self._run()
        except BaseException:  # without this thread nothing is inspected: liveness must fail
            _logger.exception("the engine's thread has ended")
            with self._changed:
                self._failed = True
                queued = [lane.queue.pop() for lane in self._lanes for _ in range(len(lane.queue))]
                if left := self._batch + queued:
                    _settle_on_loop(left, [InspectionFailed("the engine's thread has ended") for _ in left])

    def _run(self) -> None:
        while self._run_batch():
            pass

    def _run_batch(self) -> bool:
        """Waits for a batch and runs it; False when closing. While the next one is waited for, nothing holds
        its lane and its images."""
        if (work := self._next()) is None:
            return False
        lane, taken = work
        if taken.expired:
            late = [DeadlinePassed("the deadline passed in the queue") for _ in taken.expired]
            _settle_on_loop(taken.expired, late)
        self._batch = taken.batch
        if taken.batch:
            self._infer(lane, taken.batch)
        self._batch = []
        return True

    def _next(self) -> tuple[Lane, Taken[Pending]] | None:
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

    def _infer(self, lane: Lane, batch: list[Pending], *, again: bool = False) -> None:
        """`again`: the batch is a frame of one that has failed, and has been counted."""
        for pending in batch:
            pending.progress = Progress.INFER
        self._busy_since = started = time.monotonic()
        try:
            prediction = _predict(lane, batch)
        except Exception:  # an engine may raise anything, on one frame and not on its neighbours
            _logger.exception("a batch of %d frames of %s failed", len(batch), lane.product)
            self._failed_in_a_row += not again
            if len(batch) > 1:
                for pending in batch:
                    self._infer(lane, [pending], again=True)
            else:
                _settle_on_loop(batch, [InspectionFailed("the engine failed on this frame")])
            return
        self._failed_in_a_row = 0
        seconds = time.monotonic() - started
        lane.pace.infer[len(batch)].learn(seconds)
        self._metrics.batch_size.labels(lane.product).observe(len(batch))
        self._metrics.engine_busy_seconds.labels(lane.product).inc(seconds)
        outputs = zip(prediction.heatmap, prediction.score, strict=True)
        _settle_on_loop(
            batch, [EngineOutput(heatmap, float(score), seconds, len(batch)) for heatmap, score in outputs]
        )


def _settle_on_loop(batch: list[Pending], outcomes: Sequence[EngineOutput | Exception]) -> None:
    """Sets the results of a batch, on the event loop."""
    with suppress(RuntimeError):  # the loop is closed: a hanging call has returned after the shutdown
        batch[0].predicted.get_loop().call_soon_threadsafe(_settle, batch, outcomes)


def _settle(batch: list[Pending], outcomes: Sequence[EngineOutput | Exception]) -> None:
    for pending, outcome in zip(batch, outcomes, strict=True):
        settle(pending.predicted, outcome)


def _predict(lane: Lane, batch: list[Pending]) -> Prediction:
    frames = np.stack([pending.decoded.pixels for pending in batch])
    prediction = lane.predictor.predict(frames)
    if not len(batch) == len(prediction.score) == len(prediction.heatmap):
        raise EngineFailed(f"{len(prediction.score)} answers for {len(batch)} frames")
    return prediction
