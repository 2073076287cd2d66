"""Counts and latencies of a run, shown as one line of a table."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import get_args

from service.client import errors
from service.client.camera.camera import Pace, Sent
from service.client.values import Verdict

_RECENT, _MAX_KEPT, _MAX_NAMED = 1000, 100_000, 10
_COLUMNS = ("seconds", "done", "per s", "OK", "REVIEW", "NG", "refused", "late", "failed")
_TIMES = ("p50 ms", "p95 ms", "p99 ms", "behind s")
HEADER = "".join(f"{name:>9}" for name in (*_COLUMNS, *_TIMES))


@dataclass
class Tally:
    """What became of the pictures of a run."""

    pace: Pace
    expected: Verdict | None = None
    """The verdict that every picture should get."""
    counts: Counter[str] = field(default_factory=Counter)
    """By verdict, or by refused, late, failed."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_KEPT))
    """Seconds from when a picture was due to its answer, of the newest answers."""
    causes: dict[str, str] = field(default_factory=dict)
    """The first message of each kind of error."""
    unexpected: list[str] = field(default_factory=list)
    """The first pictures with another verdict than expected."""
    started: float = field(default_factory=time.monotonic)

    def note(self, sent: Sent) -> None:
        outcome = sent.outcome
        if outcome.answer is not None:
            verdict = outcome.answer.verdict
            self.counts[verdict] += 1
            if self.expected not in (None, verdict) and len(self.unexpected) < _MAX_NAMED:
                self.unexpected.append(f"expected {self.expected}: {sent.file!r} is {verdict}")
            self.seconds.append(outcome.seconds)
        elif outcome.error is not None:
            self.counts[_fate(outcome.error)] += 1
            self.causes.setdefault(type(outcome.error).__name__, str(outcome.error))

    @property
    def done(self) -> int:
        return self.counts.total()

    @property
    def inspected(self) -> int:
        return sum(self.counts[verdict] for verdict in get_args(Verdict))

    @property
    def as_expected(self) -> bool:
        """Whether every verdict is the one expected, or OK."""
        return self.counts[self.expected or "OK"] == self.inspected

    def line(self, recent: int | None = _RECENT) -> str:
        """A line below HEADER; percentiles of the last `recent` answers, or of all that are kept."""
        elapsed = time.monotonic() - self.started
        counts = "".join(f"{self.counts[name]:>9}" for name in _COLUMNS[3:])
        times = sorted(islice(reversed(self.seconds), recent))
        shares = "".join(_milliseconds(times, share) for share in (0.5, 0.95, 0.99))
        return (
            f"{elapsed:9.1f}{self.done:9}{self.done / max(elapsed, 1e-9):9.1f}"
            f"{counts}{shares}{self.pace.behind:9.2f}"
        )

    def remarks(self) -> list[str]:
        """Messages to show with the figures."""
        said = [f"{kind}: {message}" for kind, message in self.causes.items()] + self.unexpected
        if not self.pace.kept:
            said.append(
                f"could not keep {self.pace.rate:g} per second: up to {self.pace.max_behind:.2f} s behind; "
                "the service takes longer, or --window is too small"
            )
        return said


def _fate(error: errors.ClientError) -> str:
    if isinstance(error, errors.Refused):
        return "refused"
    return "late" if isinstance(error, errors.DeadlinePassed) else "failed"


def _milliseconds(times: list[float], share: float) -> str:
    """`times` must be sorted."""
    return f"{1000 * times[min(len(times) - 1, int(share * len(times)))]:9.1f}" if times else f"{'–':>9}"
