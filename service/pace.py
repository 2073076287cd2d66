"""How long the steps of one product's frames take, learned from what was measured. Seconds."""

from collections.abc import Sequence

_WEIGHT = 0.1  # of a new measurement: the last ten or so count


class Average:
    """An exponentially weighted mean; 0 until something has been measured."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def learn(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * (_WEIGHT if self.seconds else 1.0)


class Pace:
    """One product's averages, messages included. Written by whoever measures, read by the event loop."""

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self.decode = Average()
        self.post = Average()
        self.infer = {size: Average() for size in sorted(batch_sizes)}

    def batch(self, frames: int) -> float:
        """How long the engine takes over the batch that `frames` waiting frames would form."""
        return next(pace.seconds for size, pace in reversed(self.infer.items()) if size <= max(1, frames))

    @property
    def per_frame(self) -> float:
        """How long one of many waiting frames occupies the engine."""
        return min(pace.seconds / size for size, pace in self.infer.items())
