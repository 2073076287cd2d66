"""Real engines behind a gate that tests control."""

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle, EngineFailed, Prediction, Predictor

POISON = 13
"""The grey level of frames on which the engine fails."""
NOT_A_NUMBER = 17
"""The grey level of frames to which it answers NaN."""


@dataclass
class Gate:
    """Starts predictors that wait while the gate is shut, and records their batches as grey levels."""

    batches: list[tuple[int, ...]] = field(default_factory=list)
    closed: list[Predictor] = field(default_factory=list)
    gpu: str = ""
    """The product whose engine is taken for one that runs on a GPU."""
    _open: threading.Event = field(default_factory=threading.Event)
    _reached: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._reached = threading.Semaphore(0)
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_for_batch(self) -> None:
        """Returns when another batch has reached the gate."""
        assert self._reached.acquire(timeout=60)

    def start(self, bundle: Bundle, engine: str) -> Predictor:
        """Passed to the service instead of `Bundle.start`."""
        proven = bundle.start(engine)
        proven.close()
        return _Gated(self, bundle)

    def pass_through(self, levels: tuple[int, ...]) -> None:
        self._reached.release()
        assert self._open.wait(timeout=30)
        self.batches.append(levels)


class _Gated(Predictor):
    def __init__(self, gate: Gate, bundle: Bundle) -> None:
        self._gate: Gate | None = None  # open while the golden frames are replayed
        super().__init__(bundle, bundle.manifest.engines[0], {})
        self._gate = gate
        self.on_gpu = bundle.manifest.product == gate.gpu

    def predict(self, frames: NDArray[np.uint8]) -> Prediction:
        levels = tuple(int(level) for level in frames[:, 0, 0, 0])
        if self._gate is not None and levels != (0,) * len(levels):  # all black: the lane measures its pace
            self._gate.pass_through(levels)
        if POISON in levels:
            raise EngineFailed("poisoned")
        prediction = super().predict(frames)
        prediction.score[np.array(levels) == NOT_A_NUMBER] = np.nan
        return prediction

    def close(self) -> None:
        super().close()
        if self._gate is not None:
            self._gate.closed.append(self)
