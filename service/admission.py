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
_FEW = 0.05  # the share of frames that may be let in and come late
_STEP = 0.02
_LEAST, _MOST = 0.25, 4.0


class Holding:
    """The bytes one request holds, from its first received byte to its answer."""

    __slots__ = ("_admission", "bytes")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0

    def grow(self, size: int) -> None:
        """Raises Busy when `size` more bytes are more than there may be."""
        if self._admission.bytes + size > self._admission.max_bytes:
            raise Busy("too many bytes are waiting already", reason="queue_bytes", retry_after=1)
        self._admission.bytes += size
        self.bytes += size


class Admission:
    """The frames accepted and not yet answered, and the bytes they hold."""

    def __init__(self, *, max_frames: int, max_bytes: int, workers: int) -> None:
        self.max_frames, self.max_bytes = max_frames, max_bytes
        self.bytes = 0
        self._workers = workers
        self._frames = set[Frame]()
        self._caution = 1.0  # measured over forecast time: what the model does not know is learned here
        self._last_probe = 0.0

    @contextmanager
    def hold(self) -> Iterator[Holding]:
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.bytes -= holding.bytes

    def check(self, lane: Lane, order: float, deadline: float | None) -> float:
        """Raises Busy when there is no place for a frame that came now, or it would be late; otherwise the
        forecast for it, in seconds, if it has a deadline."""
        if lane.frames >= self.max_frames:
            wait = lane.frames * lane.pace.per_frame
            raise Busy("the queue is full", reason="queue_frames", retry_after=wait)
        if deadline is None:
            return 0.0
        forecast = self._forecast(lane, order)
        late = self._late(forecast, deadline)
        if late > 0 and not self._may_probe():
            raise Busy("the deadline can't be met", reason="deadline", retry_after=late)
        return forecast

    @contextmanager
    def admitted(self, frame: Frame) -> Iterator[None]:
        """Gives `frame` its place until it is answered or left; raises what `check` does."""
        deadline = frame.request.deadline
        forecast = self.check(frame.lane, frame.order, deadline)
        if deadline is not None and self._late(forecast, deadline) > 0:
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
        """Moves `_caution` to where it is enough for all but a few of the frames it matters for."""
        arrived, deadline = frame.request.arrived, frame.request.deadline
        if deadline is None or forecast * self._caution < (deadline - arrived) / 2:
            return
        enough = time.monotonic() <= min(arrived + forecast * self._caution, deadline)
        self._caution += -_STEP * _FEW if enough else _STEP * (1 - _FEW)
        self._caution = min(max(self._caution, _LEAST), _MOST)

    def _may_probe(self) -> bool:
        """Now and then a frame that looks late is let in while nothing waits: to unlearn a wrong forecast."""
        return not self._frames and time.monotonic() - self._last_probe >= _PROBE_SECONDS

    def _late(self, forecast: float, deadline: float) -> float:
        """By how much a frame that comes now would miss its deadline, in seconds."""
        return time.monotonic() + forecast * self._caution - deadline

    def _forecast(self, lane: Lane, order: float) -> float:
        """Seconds to the answer of one more frame of `lane`, given all that is ahead of it."""
        on_workers, on_engine, waiting = 0.0, 0.0, 1
        ahead = Counter((frame.lane, frame.stage) for frame in self._frames if frame.order <= order)
        for (other, stage), frames in ahead.items():
            pace = other.pace
            on_workers += frames * (pace.post.seconds + (stage == Stage.DECODE) * pace.decode.seconds)
            on_engine += frames * (stage <= Stage.INFER) * pace.per_frame
            waiting += frames * (other is lane and stage < Stage.INFER)
        pace = lane.pace
        queued = max(on_workers / self._workers, on_engine)
        return queued + pace.decode.seconds + pace.batch(waiting) + pace.post.seconds
