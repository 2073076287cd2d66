"""Who may come in: a bound on frames per product and on bytes in all, and only deadlines that can be met.

Every answer here is immediate. Runs on the event loop only.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Busy, DeadlinePassed
from service.lane import Frame, Stage

_PROBE_SECONDS = 1.0
_FEW = 0.05  # the share of frames that may be let in and come late
_STEP = 0.05
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

    @contextmanager
    def admitted(self, frame: Frame) -> Iterator[None]:
        """Gives `frame` its place until it is answered or left; raises Busy when it would be late."""
        if frame.lane.frames >= self.max_frames:
            wait = frame.lane.frames * frame.lane.pace.per_frame
            raise Busy("the queue is full", reason="queue_frames", retry_after=wait)
        forecast = self._promised(frame)
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

    def _promised(self, frame: Frame) -> float:
        """The forecast for `frame`, in seconds, when it has a deadline; Busy when it would be late."""
        if frame.request.deadline is None:
            return 0.0
        forecast = self._forecast(frame)
        late = time.monotonic() + forecast * self._caution - frame.request.deadline
        if late > 0 and not self._probes():
            raise Busy("the deadline can't be met", reason="deadline", retry_after=late)
        return forecast

    def _learn(self, frame: Frame, forecast: float) -> None:
        """Moves `_caution` to where it is enough for all but a few of the frames it matters for."""
        arrived, deadline = frame.request.arrived, frame.request.deadline
        if deadline is None or forecast * self._caution < (deadline - arrived) / 2:
            return
        enough = time.monotonic() - arrived <= forecast * self._caution
        self._caution += -_STEP * _FEW if enough else _STEP * (1 - _FEW)
        self._caution = min(max(self._caution, _LEAST), _MOST)

    def _probes(self) -> bool:
        """Now and then a frame that looks late is let in while nothing waits: to unlearn a wrong forecast."""
        now = time.monotonic()
        if self._frames or now - self._last_probe < _PROBE_SECONDS:
            return False
        self._last_probe = now
        return True

    def _forecast(self, frame: Frame) -> float:
        """Seconds to the answer of `frame`, given all that is ahead of it."""
        ahead = [other for other in self._frames if other.order <= frame.order]
        on_workers = sum(_on_workers(other) for other in ahead) / self._workers
        on_engine = sum(_on_engine(other) for other in ahead)
        pace = frame.lane.pace
        waiting = sum(other.lane is frame.lane and other.stage < Stage.INFER for other in ahead) + 1
        return max(on_workers, on_engine) + pace.decode.seconds + pace.batch(waiting) + pace.post.seconds


def _on_workers(frame: Frame) -> float:
    """Seconds of a worker's time that `frame` still needs."""
    pace = frame.lane.pace
    return pace.post.seconds + (pace.decode.seconds if frame.stage == Stage.DECODE else 0.0)


def _on_engine(frame: Frame) -> float:
    return frame.lane.pace.per_frame if frame.stage <= Stage.INFER else 0.0
