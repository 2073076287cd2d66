"""`python -m tests.bench.decoding`: what it costs to decode in processes, not in the service's threads.

Alone: frames/s of two threads that decode, and the median of one. In the service: an engine that costs
nothing, HTTP, eight clients, the two ways in turns. Ratios within one run on one machine.
"""

import argparse
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from export.bundle import Geometry
from service.decoder import Bounds
from service.decoders import Decoders, InProcesses, InThreads
from service.image import ImageLimits, decode
from tests.bench.serving import load, make_images, server
from tests.bundles import make_bundle

GEOMETRY = Geometry(256, 256)
LIMITS = ImageLimits(pixels=10**8, side=10**5, frames=1)
WORKERS = 2


class Pipes:
    """The other way there could be: all bytes through a socket, none through memory that both see."""

    def __init__(self) -> None:
        self._idle = [self._fork() for _ in range(WORKERS)]
        self._taking = threading.Lock()

    def decode(self, body: bytes) -> None:
        with self._taking:
            channel = self._idle.pop()
        _send(channel, body)
        _receive(channel)
        self._idle.append(channel)

    def close(self) -> None:
        for channel in self._idle:
            channel.close()

    def _fork(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            return ours
        ours.close()
        try:
            while True:
                pixels = decode(_receive(theirs), GEOMETRY, declared=None, limits=LIMITS).pixels
                _send(theirs, np.ascontiguousarray(pixels).tobytes())
        finally:
            os._exit(0)


def _send(to: socket.socket, data: bytes) -> None:
    to.sendall(struct.pack("!I", len(data)))
    to.sendall(data)


def _receive(source: socket.socket) -> bytes:
    (size,) = struct.unpack("!I", source.recv(4, socket.MSG_WAITALL))
    return source.recv(size, socket.MSG_WAITALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="per turn")
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        alone(images, given.seconds, given.turns)
        served(Path(folder), images, given.seconds, given.turns)


def alone(images: dict[str, Path], seconds: float, turns: int) -> None:
    pipes = Pipes()  # forked before there are threads
    bounds = Bounds(seconds=5, bytes=2**31)
    ways: dict[str, Decoders] = {
        "threads": InThreads(LIMITS),
        "shared memory": InProcesses(LIMITS, bounds, WORKERS),
    }
    for decoders in ways.values():
        decoders.start()
    decoding: dict[str, Callable[[bytes], object]] = {
        "sockets": pipes.decode,
        **{name: partial(_decode, way) for name, way in ways.items()},
    }
    print("| image | way | frames/s of two | of threads | p50 ms of one |\n|---|---|---|---|---|")
    for name, image in images.items():
        body = image.read_bytes()
        rates, medians = dict[str, list[float]](), dict[str, list[float]]()
        for turn in range(turns):
            for way in list(decoding)[:: 1 if turn % 2 else -1]:
                rates.setdefault(way, []).append(_rate(partial(decoding[way], body), seconds))
                medians.setdefault(way, []).append(_median(partial(decoding[way], body), seconds / 4))
        for way in decoding:
            share = sum(rates[way]) / sum(rates["threads"])
            rate, p50 = sum(rates[way]) / turns, 1000 * sum(medians[way]) / turns
            print(f"| {name} | {way} | {rate:.0f} | {share:.3f} | {p50:.2f} |")
    pipes.close()
    for decoders in ways.values():
        decoders.close()


def served(folder: Path, images: dict[str, Path], seconds: float, turns: int) -> None:
    bundle = make_bundle(folder / "models", "bench", size=(256, 256))
    print("\n| image | DRD_DECODE | frames/s | of thread | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
    for name, image in images.items():
        reports = dict[str, list[tuple[float, float, float]]]()
        for turn in range(turns):
            for way in ("thread", "process")[:: 1 if turn % 2 else -1]:
                os.environ["DRD_DECODE"] = way
                with server(bundle, folder / "socket", free=True) as addresses:
                    load(addresses, "raw", image, bundle, 0.5, 8)
                    report = load(addresses, "raw", image, bundle, seconds, 8)
                good = report["statuses"]["200"]
                figures = good["count"] / report["seconds"], 1000 * good["p50"], 1000 * good["p99"]
                reports.setdefault(way, []).append(figures)
        means = {
            way: [sum(figures) / turns for figures in zip(*reports[way], strict=True)] for way in reports
        }
        for way in ("thread", "process"):
            rate, p50, p99 = means[way]
            print(
                f"| {name} | {way} | {rate:.0f} | {rate / means['thread'][0]:.3f} | {p50:.1f} | {p99:.1f} |"
            )


def _decode(way: Decoders, body: bytes) -> object:
    return way.decode(body, GEOMETRY, None)


def _rate(once: "partial[object]", seconds: float) -> float:
    done, started = [0] * WORKERS, time.monotonic()

    def loop(number: int) -> None:
        while time.monotonic() - started < seconds:
            once()
            done[number] += 1

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def _median(once: "partial[object]", seconds: float) -> float:
    times, ends = list[float](), time.monotonic() + seconds
    while (started := time.monotonic()) < ends:
        once()
        times.append(time.monotonic() - started)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
