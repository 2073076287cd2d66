"""Compares the speed of engines. They take turns, so that other load on the machine affects all alike."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from export.bundle.engines.engine import Engine, EngineFailed, run_engine

Times = dict[str, tuple[float, ...]]
"""By engine id: milliseconds per image, one value per batch size."""


def benchmark(
    engines: Mapping[str, Engine], frames: NDArray[np.uint8], batch_sizes: Sequence[int], rounds: int
) -> Times:
    """The fastest of `rounds` runs of each engine at each batch size: other load only ever adds time.

    `frames` uint8 `[F, H, W, 3]` are repeated to fill a batch. An engine that fails is out, and has no times:
    memory may be enough for each engine, but not for all together.
    """
    running = dict(engines)
    milliseconds = {(name, size): list[float]() for name in engines for size in batch_sizes}
    for size in batch_sizes:
        batch = np.resize(frames, (size, *frames.shape[1:]))
        for turn in range(rounds + 1):
            for name, engine in list(running.items()):
                start = perf_counter()
                try:
                    run_engine(engine, batch)
                except EngineFailed:
                    del running[name]
                    continue
                if turn:  # the first is the warm-up
                    milliseconds[name, size].append(1000 * (perf_counter() - start) / size)
    return {name: tuple(min(milliseconds[name, size]) for size in batch_sizes) for name in running}
