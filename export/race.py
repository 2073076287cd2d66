"""How fast engines are, against each other: in turns, so that what else the machine does hits them all."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.engine import Engine, ask

Times = dict[str, tuple[float, ...]]
"""Milliseconds per image for each engine id, one per batch size."""


def race(
    engines: Mapping[str, Engine], frames: NDArray[np.uint8], batch_sizes: Sequence[int], rounds: int
) -> Times:
    """The best of `rounds` (other work on the machine only adds) for all `engines` at all `batch_sizes`;
    `frames` [F, H, W, 3] are repeated as needed. Raises EngineFailed."""
    milliseconds = {(name, size): list[float]() for name in engines for size in batch_sizes}
    for size in batch_sizes:
        batch = np.resize(frames, (size, *frames.shape[1:]))
        for turn in range(rounds + 1):
            for name, engine in engines.items():
                start = perf_counter()
                ask(engine, batch)
                if turn:  # the first is the warm-up
                    milliseconds[name, size].append(1000 * (perf_counter() - start) / size)
    return {name: tuple(min(milliseconds[name, size]) for size in batch_sizes) for name in engines}
