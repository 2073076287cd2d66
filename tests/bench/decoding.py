"""`python -m tests.bench.decoding`: what it costs to decode in workers, not in this process.

Frames/s of two that decode at once, and the median of one. Ratios within one run on one machine.
"""

import argparse
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop

from export.bundle import Bundle, Geometry
from service.lane import Lane, Pending
from service.settings import Settings
from service.values import Request
from service.workers.image import ImageLimits, decode
from service.workers.workers import Workers
from tests.bench.serving import make_images
from tests.bundles import make_bundle

GEOMETRY = Geometry(256, 256)
LIMITS = ImageLimits(pixels=10**8, side=10**5, images=1)
Figures = tuple[float, float]
"""Frames per second of two, and the median seconds of one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="per turn")
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        uvloop.run(compare(make_images(Path(folder)), given.seconds, given.turns))


async def compare(images: dict[str, Path], seconds: float, turns: int) -> None:
    workers, lane = Workers(Settings(models=Path(), workers=2)), _lane()
    await workers.start()
    print("| image | where | frames/s of two | of threads | p50 ms of one |\n|---|---|---|---|---|")
    for name, image in images.items():
        body = image.read_bytes()
        predicted = asyncio.get_running_loop().create_future()
        pending = Pending(Request(body, lane.product, 0), lane, 0, 0, predicted)
        ways: dict[str, Callable[[], Awaitable[Figures]]] = {
            "threads": partial(in_threads, body, seconds),
            "workers": partial(in_workers, workers, pending, seconds),
        }
        figures = dict[str, list[Figures]]()
        for turn in range(turns):
            for way in list(ways)[:: 1 if turn % 2 else -1]:
                figures.setdefault(way, []).append(await ways[way]())
        means = {way: [sum(each) / turns for each in zip(*figures[way], strict=True)] for way in ways}
        for way, (rate, p50) in means.items():
            print(f"| {name} | {way} | {rate:.0f} | {rate / means['threads'][0]:.3f} | {1000 * p50:.2f} |")
    await workers.close()


async def in_threads(body: bytes, seconds: float) -> Figures:
    return await asyncio.to_thread(_in_threads, body, seconds)


def _in_threads(body: bytes, seconds: float) -> Figures:
    both = list[float]()
    threads = [threading.Thread(target=_one_thread, args=(body, seconds, both)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _one_thread(body, seconds / 4, alone := list[float]())
    return len(both) / seconds, median(alone)


def _one_thread(body: bytes, seconds: float, times: list[float]) -> None:
    ends = time.monotonic() + seconds
    while (started := time.monotonic()) < ends:
        decode(body, GEOMETRY, declared=None, limits=LIMITS)
        times.append(time.monotonic() - started)


def _lane() -> Lane:
    """Of a product with inputs of `GEOMETRY`; its engine is closed, as none is needed."""
    with TemporaryDirectory() as models:
        bundle = make_bundle(Path(models), size=(GEOMETRY.height, GEOMETRY.width))
        with closing(Bundle.open(bundle).start()) as predictor:
            return Lane(predictor)


async def in_workers(workers: Workers, pending: Pending, seconds: float) -> Figures:
    async def one(times: list[float]) -> None:
        while True:
            started = time.monotonic()
            await workers.decode(pending)
            times.append(time.monotonic() - started)

    both, alone = list[float](), list[float]()
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(one(both), one(both)), seconds)
    with suppress(TimeoutError):
        await asyncio.wait_for(one(alone), seconds / 4)
    return len(both) / seconds, median(alone)


if __name__ == "__main__":
    main()
