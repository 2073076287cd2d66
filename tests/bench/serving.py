"""`python -m tests.bench.serving [BUNDLE]`: the serving core against what the machine could do without it.

Ratios within one run on one machine, load generator included (tests/bench/load.py: plain sockets, uvloop).
Without BUNDLE only the engine that costs nothing is measured. The door `plain` is the yardstick's
(tests/bench/plain.py).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import elpv_dataset
from PIL import Image

from export.bundle import Bundle, Predictor
from tests.bench.engines import FREE, start
from tests.bench.limit import alone, bare, best_way, rate, whole
from tests.bundles import make_bundle

DOORS = (
    ("raw", 1),
    ("raw", 8),
    ("raw", 16),
    ("raw", 32),
    ("unix", 8),
    ("multipart", 8),
    ("grpc", 8),
    ("stream", 8),
    ("plain", 1),
    ("plain", 8),
    ("plain", 32),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="MODELS_DIR/PRODUCT/VERSION for the real engine")
    parser.add_argument("--engine", default="auto", metavar="ID", help="the real one; as drd-serve takes it")
    parser.add_argument("--seconds", type=float, default=4, help="per figure")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        made = make_bundle(Path(folder) / "models", "bench", size=(256, 256))
        print("## An engine that costs nothing\n")
        measure(Path(folder), made, images, given.seconds, FREE)
        if given.bundle:
            copy = Path(folder) / "real" / given.bundle.parent.name / given.bundle.name
            shutil.copytree(given.bundle, copy)
            print("\n## The real engine\n")
            measure(Path(folder), copy, images, given.seconds, given.engine)


def make_images(folder: Path) -> dict[str, Path]:
    """A real cell as it is, and blown up to a megapixel."""
    cell = Image.open(next(Path(elpv_dataset.__file__).parent.rglob("cell0001.png"))).convert("L")
    images = {"300×300": cell, "1000×1000": cell.resize((1000, 1000), Image.Resampling.BICUBIC)}
    for name, image in images.items():
        image.save(folder / f"{name}.jpg", quality=90)
    return {name: folder / f"{name}.jpg" for name in images}


def measure(folder: Path, bundle: Path, images: dict[str, Path], seconds: float, engine: str) -> None:
    """Prints the tables of one engine."""
    predictor = start(Bundle.open(bundle), engine)
    print("| image | door | clients | frames/s | of the limit | of decode + encode | p50, alone, p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for name, image in images.items():
        limit = Limit(image.read_bytes(), predictor, seconds / 2)
        with server(bundle, folder / "socket", engine) as addresses, plain(bundle, engine) as yardstick:
            addresses["plain"] = yardstick
            visits = dict[tuple[str, int], list[Visit]]()
            for door, clients in (*DOORS, *reversed(DOORS)):
                beside = limit.now()
                report = load(addresses, door, image, bundle, seconds / 2, clients)
                visits.setdefault((door, clients), []).append(Visit(report, beside))
        for (door, clients), both in visits.items():
            frames = mean(visit.rate for visit in both)
            everything, least, lone = map(mean, zip(*(visit.limit for visit in both), strict=True))
            p50, p99 = (1000 * mean(visit.answered[at] for visit in both) for at in ("p50", "p99"))
            figures = f"{frames:.0f} | {frames / everything:.2f} | {frames / least:.2f}"
            took = f"{p50:.1f}, {1000 * lone:.1f}, {p99:.1f}"
            print(f"| {name} | {door} | {clients} | {figures} | {took} |")
        limits = [visit.limit.whole for both in visits.values() for visit in both]
        print(f"| {name} | none: {limit.way} | | {mean(limits):.0f} | 1 | | |")
    predictor.close()
    overload(folder, bundle, images["300×300"], seconds, engine)


class Beside(NamedTuple):
    """What the machine can do just then without a server: frames per second of everything an answer needs and
    of decoding and encoding alone, and the seconds of a lone frame."""

    whole: float
    bare: float
    alone: float


@dataclass(frozen=True)
class Visit:
    """What a door did, and the limit just before: how fast a core is changes from one half minute to the next
    by more than what is looked for."""

    report: dict[str, Any]
    limit: Beside

    @property
    def answered(self) -> dict[str, Any]:
        answered: dict[str, Any] = self.report["statuses"]["200"]
        return answered

    @property
    def rate(self) -> float:
        rate: float = self.answered["count"] / self.report["seconds"]
        return rate


class Limit:
    """Of one image and engine. `way` is the best, found once."""

    def __init__(self, body: bytes, predictor: Predictor, seconds: float) -> None:
        self._whole, self._bare = partial(whole, body, predictor), partial(bare, body, predictor)
        self._seconds = seconds
        self.way = best_way(self._whole, (1, 8), 2 * seconds)
        self._way_of_bare = best_way(self._bare, (1,), seconds)

    def now(self) -> Beside:
        return Beside(
            rate(self._whole, self.way, self._seconds),
            rate(self._bare, self._way_of_bare, self._seconds / 4),
            alone(self._whole, self._seconds / 4),
        )


def overload(folder: Path, bundle: Path, image: Path, seconds: float, engine: str) -> None:
    print("\n| offered, of capacity | in time/s | refused/s | refusal p50 ms | 504/s | 200 but late |")
    print("|---|---|---|---|---|---|")
    with server(bundle, folder / "socket", engine) as addresses:
        report = load(addresses, "raw", image, bundle, seconds, 8)
        capacity = report["statuses"]["200"]["count"] / report["seconds"]
        for times in (0.5, 1, 2, 4):
            options = ("--rate", f"{times * capacity}", "--deadline-ms", "200")
            report = load(addresses, "raw", image, bundle, seconds, 8, *options)
            count, took = report["statuses"], report["seconds"]
            rates = {
                status: count.get(status, {"count": 0})["count"] / took for status in ("200", "429", "504")
            }
            refusal = 1000 * count["429"]["p50"] if "429" in count else 0
            late = report["late"]
            in_time = rates["200"] - late / took
            figures = f"{in_time:.0f} | {rates['429']:.0f} | {refusal:.1f} | {rates['504']:.0f} | {late}"
            print(f"| {times} = {times * capacity:.0f}/s | {figures} |")


@contextmanager
def server(bundle: Path, socket: Path, engine: str, **more: str) -> Iterator[dict[str, str]]:
    """A server process with `more` settings; its addresses by door."""
    settings = {
        "DRD_MODELS": str(bundle.parent.parent),
        "DRD_HTTP": f"127.0.0.1:0,unix:{socket}",
        "DRD_GRPC": "127.0.0.1:0",
        "DRD_LAME_DUCK_SECONDS": "0",
        **more,
    }
    command = [sys.executable, "-m", "tests.bench.server"]
    if engine != FREE:
        command = [sys.executable, "-m", "service.cli", "--engine", engine]
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = list[str]()
            while not (lines and lines[-1].startswith("try")):
                lines.append(process.stdout.readline())
                if not lines[-1] or lines[-1].startswith("not ready"):
                    raise SystemExit(f"the server did not start: {lines}")
            http, unix, grpc = (line.split()[1].removeprefix("http://") for line in lines[:3])
            yield {"raw": http, "multipart": http, "unix": unix, "grpc": grpc, "stream": grpc}
        finally:
            process.terminate()


@contextmanager
def plain(bundle: Path, engine: str) -> Iterator[str]:
    """The address of a process of tests/bench/plain.py."""
    command = [sys.executable, "-m", "tests.bench.plain", str(bundle), engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def load(
    addresses: dict[str, str], door: str, image: Path, bundle: Path, seconds: float, clients: int, *more: str
) -> dict[str, Any]:
    """What tests/bench/load.py, in a process of its own, reports."""
    kind = "raw" if door in ("unix", "plain") else door
    command = [sys.executable, "-m", "tests.bench.load", addresses[door], str(image), "--door", kind]
    command += ["--product", bundle.parent.name, "--clients", str(clients), "--seconds", str(seconds), *more]
    report: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report


if __name__ == "__main__":
    main()
