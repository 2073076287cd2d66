"""What every engine offers, and the one way it is asked."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Raw heatmap [N, H, W] and raw score [N]."""


class EngineFailed(RuntimeError):
    """The engine could not run a batch, or answered something that is not an answer."""


class Engine(Protocol):
    """Runs the graph. Not thread-safe: one caller at a time."""

    def run(self, frames: NDArray[np.uint8]) -> Answer:
        """`frames` [N, H, W, 3], N one of the entry's batch sizes; may raise anything."""

    def close(self) -> None:
        """Frees what the runtime holds; the engine can't be used afterwards."""


def first_line(error: Exception) -> str:
    """What a native runtime says, without its stack, which ONNX Runtime appends …"""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: Exception) -> str:
    """… and OpenVINO puts in front."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def ask(engine: Engine, frames: NDArray[np.uint8]) -> Answer:
    """Runs `engine` on `frames`; EngineFailed unless there is an answer to each of them."""
    try:
        heatmap, score = engine.run(frames)
    except Exception as error:  # the boundary to native runtimes, whose exceptions share no base class
        raise EngineFailed(str(error)) from error
    if heatmap.shape != frames.shape[:3] or score.shape != frames.shape[:1]:
        raise EngineFailed(f"answered {heatmap.shape} and {score.shape} to frames {frames.shape}")
    return heatmap, score
