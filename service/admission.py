"""Admission: limits the frames of each product version and the bytes of all, and refuses deadlines that can't
be met.

Decides at once, never waits. Runs on the event loop only.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Busy, DeadlinePassed
from service.lane import Frame, Lane, Stage

_PROBE_SECONDS = 1.0
_FEW = 0.05  # of the admitted frames, the fraction that may be late
_STEP = 0.02
_LEAST, _MOST = 0.25, 4.0


class Holding:
    """The bytes of one request, counted from its first received byte until it is answered."""

    __slots__ = ("_admission", "bytes")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0

    def grow(self, size: int) -> None:
        """Adds `size` bytes; raises Busy when that exceeds the limit."""
        if self._admission.bytes + size > self._admission.max_bytes:
            raise Busy("the bytes waiting have reached their limit", reason="queue_bytes", retry_after=1)
        self._admission.bytes += size
        self.bytes += size


class Admission:
    """The frames accepted and not yet answered, and the bytes they hold."""

    def __init__(self, *, max_frames: int, max_bytes: int, workers: int, patience: float) -> None:
        self.max_frames, self.max_bytes = max_frames, max_bytes
        self.bytes = 0
        self._workers, self._patience = workers, patience
        self._frames = set[Frame]()
        self._last_probe = 0.0

    @contextmanager
    def hold(self) -> Iterator[Holding]:
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.bytes -= holding.bytes

    def order(self, lane: Lane, arrived: float, deadline: float | None) -> float:
        """Where a frame stands in every queue: at its deadline, or where it has none, at its arrival plus
        `patience` and twice the time that the frames accepted before it take.

        So callers without deadlines leave at least half of the engine to those with deadlines, however many
        they are, and still get their turn. Among themselves they keep the order of arrival.
        """
        if deadline is not None:
            return deadline
        pace = lane.pace
        each = max(pace.per_frame, (pace.decode.seconds + pace.post.seconds) / self._workers)
        lane.last_undated = max(lane.last_undated, arrived + self._patience + 2 * len(self._frames) * each)
        return lane.last_undated

    def check(self, lane: Lane, deadline: float | None) -> float:
        """Raises Busy when the queue is full or the frame would be late. Returns its forecast in seconds, 0
        without a deadline."""
        if lane.frames >= self.max_frames:
            wait = lane.frames * lane.pace.per_frame
            raise Busy("the queue is full", reason="queue_frames", retry_after=wait)
        if deadline is None:
            return 0.0
        forecast = self._forecast(lane, deadline)
        late = self._late(lane, forecast, deadline)
        if late > 0 and not self._may_probe():
            why = f"the deadline can't be met: the answer would be about {1000 * late:.0f} ms late"
            raise Busy(why, reason="deadline", retry_after=late)
        return forecast

    @contextmanager
    def admitted(self, frame: Frame) -> Iterator[None]:
        """Holds a place for `frame` until the block ends; raises what `check` does."""
        deadline = frame.request.deadline
        forecast = self.check(frame.lane, deadline)
        if deadline is not None and self._late(frame.lane, forecast, deadline) > 0:
            self._last_probe = time.monotonic()
        self._frames.add(frame)
        frame.lane.enter()
        try:
            yield
        except DeadlinePassed:
            self._learn(frame, forecast)
            raise
        else:
            self._learn(frame, forecast)
        finally:
            self._frames.discard(frame)
            frame.lane.leave()

    def _learn(self, frame: Frame, forecast: float) -> None:
        """Adapts the lane's `caution` until it covers all but a fraction `_FEW` of its frames with tight
        deadlines."""
        arrived, deadline, lane = frame.request.arrived, frame.request.deadline, frame.lane
        if deadline is None or forecast * lane.caution < (deadline - arrived) / 2:
            return
        enough = time.monotonic() <= min(arrived + forecast * lane.caution, deadline)
        lane.caution += -_STEP * _FEW if enough else _STEP * (1 - _FEW)
        lane.caution = min(max(lane.caution, _LEAST), _MOST)

    def _may_probe(self) -> bool:
        """Whether to admit a frame that looks late: once in a while, to correct the forecast."""
        return not self._frames and time.monotonic() - self._last_probe >= _PROBE_SECONDS

    def _late(self, lane: Lane, forecast: float, deadline: float) -> float:
        """Seconds by which a frame admitted now would miss its deadline; negative if it would be in time."""
        return time.monotonic() + forecast * lane.caution - deadline

    def _forecast(self, lane: Lane, deadline: float) -> float:
        """Seconds until one more frame of `lane` is answered, given the frames ahead of it."""
        on_workers, on_engine, waiting = 0.0, 0.0, 1
        ahead = Counter((frame.lane, frame.stage) for frame in self._frames if frame.order <= deadline)
        for (other, stage), frames in ahead.items():
            pace = other.pace
            on_workers += frames * (pace.post.seconds + (stage == Stage.DECODE) * pace.decode.seconds)
            on_engine += frames * (stage <= Stage.INFER) * pace.per_frame
            waiting += frames * (other is lane and stage < Stage.INFER)
        pace = lane.pace
        queued = max(on_workers / self._workers, on_engine)
        return queued + pace.decode.seconds + pace.batch(waiting) + pace.post.seconds
