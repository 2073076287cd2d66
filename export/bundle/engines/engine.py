"""The interface of every engine, and the function that calls it."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from training.messages import one_line


class Prediction(NamedTuple):
    """`heatmap` float32 `[N, H, W]` and `score` float32 `[N]`, both raw."""

    heatmap: NDArray[np.float32]
    score: NDArray[np.float32]

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite: the service can't judge a frame with one."""
        return all(bool(np.isfinite(values).all()) for values in self)


class EngineFailed(RuntimeError):
    """The engine raised, or its output has a wrong shape; the message is one line."""


class Engine(Protocol):
    """Runs the graph. Not thread-safe."""

    def run(self, frames: NDArray[np.uint8]) -> Prediction:
        """Runs `frames` uint8 `[N, H, W, 3]`, N one of the entry's batch sizes. May raise any exception."""

    def close(self) -> None:
        """Frees the runtime's memory; the engine can't be used afterwards."""


def first_line(error: Exception) -> str:
    """ONNX Runtime's message without the stack trace that it appends."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: Exception) -> str:
    """OpenVINO's message without the stack trace in front of it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def run_engine(engine: Engine, frames: NDArray[np.uint8]) -> Prediction:
    """Runs `engine` on `frames` uint8 `[N, H, W, 3]`. Raises EngineFailed."""
    try:
        prediction = engine.run(frames)
    except Exception as error:  # exceptions of the runtimes have no common base class
        raise EngineFailed(one_line(error)) from error
    heatmap, score = prediction
    if heatmap.shape != frames.shape[:3] or score.shape != frames.shape[:1]:
        raise EngineFailed(f"outputs have shapes {heatmap.shape} and {score.shape} for frames {frames.shape}")
    return prediction
