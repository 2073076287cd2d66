"""Admission: limits the requests of each product version and the bytes of all, and refuses deadlines that
can't be met.

Decides at once, never waits. Runs on the event loop only.
"""

import math
import time
from asyncio import CancelledError
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self

from service.errors import Busy, DeadlinePassed
from service.lane import Lane, Pending, Progress
from service.values import cancelled_late

_PROBE_SECONDS, _BUSY_PROBE_SECONDS = 1.0, 10.0
"""How often a lane admits a request that looks late: only an answer can correct a wrong forecast. More rarely
while others are under way, as it may make them late."""
_LATE_FRACTION = 0.05
"""How many of the admitted requests with tight deadlines may be late. With fewer, more are refused that would
have been in time."""
_STEP = 0.02
"""How far a late request moves a lane's `safety_factor`, about: a single one hardly matters, and 25 of them
make the forecasts half as long again."""
_MIN_FACTOR, _MAX_FACTOR = 0.25, 4.0
"""Bounds, so that it recovers soon after a time in which nothing could be in time, or everything."""


class Holding:
    """The bytes of one request from the first that is received, then those of its answer until it is sent.

    To be released: a context manager does.
    """

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

    def answer(self, size: int) -> None:
        """Holds `size` bytes from now on, even above the limit: later requests are refused instead."""
        self._admission.bytes += size - self.bytes
        self.bytes = size

    def release(self) -> None:
        self.answer(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Admission:
    """The requests accepted and not yet answered, and the bytes they hold."""

    def __init__(self, *, max_frames: int, max_bytes: int, workers: int, default_deadline: float) -> None:
        """`default_deadline` in seconds."""
        self.max_frames, self.max_bytes = max_frames, max_bytes
        self.bytes = 0
        """Held by all requests that are arriving or not answered yet."""
        self._workers, self._default_deadline = workers, default_deadline
        self._pending = set[Pending]()

    def order(self, lane: Lane, arrived: float, deadline: float | None, *, overlay: bool) -> float:
        """Where a request stands in every queue: at its deadline, or where it has none, at its arrival plus
        the default deadline and twice the time that the requests accepted before it, of all versions, would
        take at this lane's pace.

        So callers without deadlines leave at least half of the engine to those with deadlines, however many
        they are, and still get their turn. Among themselves those of one lane keep the order of arrival.
        """
        if deadline is not None:
            return deadline
        pace = lane.pace
        outside = pace.decode.seconds + pace.reading(overlay=overlay).seconds
        each = max(pace.per_frame, outside / self._workers)
        order = arrived + self._default_deadline + 2 * len(self._pending) * each
        before = (one.order for one in self._pending if one.lane is lane and one.request.deadline is None)
        return max([order, *before])

    def check(self, lane: Lane, deadline: float | None, *, overlay: bool) -> float:
        """Raises Busy when the queue is full or the answer would be late. Returns its forecast in seconds, 0
        without a deadline."""
        if lane.pending >= self.max_frames:
            wait = lane.pending * lane.pace.per_frame
            raise Busy("the queue is full", reason="queue_frames", retry_after=wait)
        if deadline is None:
            return 0.0
        forecast = self._forecast(lane, deadline, overlay=overlay)
        now = time.monotonic()
        late = now + forecast * lane.safety_factor - deadline
        pause = _BUSY_PROBE_SECONDS if self._pending else _PROBE_SECONDS
        if late > 0 and now - lane.last_probe < pause:
            why = f"the deadline can't be met: the answer would be about {1000 * late:.0f} ms late"
            raise Busy(why, reason="deadline", retry_after=late)
        return forecast

    @contextmanager
    def admitted(self, pending: Pending) -> Iterator[None]:
        """Holds a place for `pending` until the block ends; raises what `check` does."""
        lane, deadline = pending.lane, pending.request.deadline
        forecast = self.check(lane, deadline, overlay=pending.overlay)
        admitted = time.monotonic()
        probe = deadline is not None and admitted + forecast * lane.safety_factor > deadline
        if probe:
            lane.last_probe = admitted
        self._pending.add(pending)
        lane.enter()
        learn = partial(_learn, lane, forecast, admitted, deadline, probe=probe)
        try:
            yield
        except DeadlinePassed:
            learn(answered=math.inf)
            raise
        except CancelledError:
            if cancelled_late(deadline):
                learn(answered=math.inf)
            raise
        else:
            learn(answered=time.monotonic())
        finally:
            self._pending.discard(pending)
            lane.leave()

    def _forecast(self, lane: Lane, deadline: float, *, overlay: bool) -> float:
        """Seconds until one more request of `lane` is answered, given those that go before it."""
        on_workers, on_engine, waiting = 0.0, 0.0, 1
        ahead = Counter(
            (one.lane, one.progress, one.overlay) for one in self._pending if one.order <= deadline
        )
        for (other, progress, drawn), count in ahead.items():
            pace = other.pace
            on_workers += count * pace.reading(overlay=drawn).seconds
            if progress == Progress.DECODE:
                on_workers += count * pace.decode.seconds
            if progress <= Progress.INFER and other.on_gpu == lane.on_gpu:
                on_engine += count * pace.per_frame
            if other is lane and progress < Progress.INFER:
                waiting += count
        pace = lane.pace
        queued = max(on_workers / self._workers, on_engine)
        own = pace.decode.seconds + pace.batch(waiting) + pace.reading(overlay=overlay).seconds
        return queued + own


def _learn(
    lane: Lane, forecast: float, admitted: float, deadline: float | None, *, probe: bool, answered: float
) -> None:
    """Adapts the lane's `safety_factor` to an answer at the instant `answered` (infinite: not in time), if
    the deadline was tight: less than twice the forecast away.

    Late means later than the corrected forecast, or than the deadline. The factor is at rest where late
    answers raise it as much as the others lower it: with a fraction p of them late, where
    p (1 - `_LATE_FRACTION`) = (1 - p) `_LATE_FRACTION`, that is at p = `_LATE_FRACTION`.

    A `probe` that is late says nothing new. One in time lowers the factor to where it would have been let in,
    or to 1.
    """
    if deadline is None or forecast * lane.safety_factor < (deadline - admitted) / 2:
        return
    if probe:
        if answered <= deadline and lane.safety_factor > 1:
            lane.safety_factor = max(1.0, min(lane.safety_factor - _STEP, (deadline - admitted) / forecast))
    elif answered <= min(admitted + forecast * lane.safety_factor, deadline):
        lane.safety_factor -= _STEP * _LATE_FRACTION
    else:
        lane.safety_factor += _STEP * (1 - _LATE_FRACTION)
    lane.safety_factor = min(max(lane.safety_factor, _MIN_FACTOR), _MAX_FACTOR)
