"""How long the steps of one product's frames take, averaged over measurements. Seconds."""

from collections.abc import Sequence

_WEIGHT = 0.1  # of a new measurement: roughly the last ten count
_MOST = 10
"""A measurement counts as at most so many times the average. Otherwise one that lasted seconds, since the
machine stood still, would have all tight deadlines refused for seconds afterwards."""


class Average:
    """An exponentially weighted mean; 0 until something has been measured."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def learn(self, seconds: float) -> None:
        if self.seconds:
            self.seconds += (min(seconds, _MOST * self.seconds) - self.seconds) * _WEIGHT
        else:
            self.seconds = seconds


class Pace:
    """One lane's averages. Those of the workers' jobs include the messages to and from the worker."""

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self.decode = Average()
        self.read = Average()
        self.overlay = Average()
        """Reading where an overlay is drawn: of a large image, that takes a thousand times as long."""
        self.infer = {size: Average() for size in sorted(batch_sizes)}

    def reading(self, *, overlay: bool) -> Average:
        """The average that a request with or without an overlay is forecast by, and learned from."""
        return self.overlay if overlay else self.read

    def batch(self, frames: int) -> float:
        """Seconds the engine takes for the batch that `frames` waiting frames would form.

        No longer than for them in smaller ones: a size may have been measured while the machine was busy, and
        as long as its frames are refused, no such batch is formed that would correct it.
        """
        largest = max(size for size in self.infer if size <= frames)
        return min(pace.seconds * largest / size for size, pace in self.infer.items() if size <= largest)

    @property
    def per_frame(self) -> float:
        """Seconds of the engine per frame when many wait."""
        return min(pace.seconds / size for size, pace in self.infer.items())
