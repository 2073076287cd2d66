"""`python -m tests.bench.serving [BUNDLE]`: the serving core against what the machine could do without it.

Ratios within one run on one machine, load generator included (tests/bench/load.py: plain sockets, uvloop).
Without BUNDLE only the engine that costs nothing is measured.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import elpv_dataset
from PIL import Image

from export.bundle import Bundle, Predictor
from tests.bench.engines import start_free
from tests.bench.limit import Limit, bare, limit_of, whole
from tests.bundles import make_bundle

DOORS = (("raw", 1), ("raw", 8), ("raw", 32), ("unix", 8), ("multipart", 8), ("grpc", 8), ("stream", 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="MODELS_DIR/PRODUCT/VERSION for the real engine")
    parser.add_argument("--seconds", type=float, default=4, help="per figure")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        made = make_bundle(Path(folder) / "models", "bench", size=(256, 256))
        print("## An engine that costs nothing\n")
        measure(Path(folder), made, images, given.seconds, free=True)
        if given.bundle:
            copy = Path(folder) / "real" / given.bundle.parent.name / given.bundle.name
            shutil.copytree(given.bundle, copy)
            print("\n## The real engine\n")
            measure(Path(folder), copy, images, given.seconds, free=False)


def make_images(folder: Path) -> dict[str, Path]:
    """A real cell as it is, and blown up to a megapixel."""
    cell = Image.open(next(Path(elpv_dataset.__file__).parent.rglob("cell0001.png"))).convert("L")
    images = {"300×300": cell, "1000×1000": cell.resize((1000, 1000), Image.Resampling.BICUBIC)}
    for name, image in images.items():
        image.save(folder / f"{name}.jpg", quality=90)
    return {name: folder / f"{name}.jpg" for name in images}


def measure(folder: Path, bundle: Path, images: dict[str, Path], seconds: float, *, free: bool) -> None:
    """Prints the tables of one engine."""
    predictor = start_free(Bundle.open(bundle), "auto") if free else Bundle.open(bundle).start()
    print("| image | door | clients | frames/s | of the limit | of decode + encode | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, image in images.items():
        before = limits(image, predictor, seconds / 4)
        with server(bundle, folder / "socket", free=free) as addresses:
            # There and back again: what else the machine does meanwhile falls on no door alone.
            reports = dict[tuple[str, int], list[dict[str, Any]]]()
            for door, clients in (*DOORS, *reversed(DOORS)):
                report = load(addresses, door, image, bundle, seconds / 2, clients)
                reports.setdefault((door, clients), []).append(report)
        after = limits(image, predictor, seconds / 4)
        everything, least = ((a.rate + b.rate) / 2 for a, b in zip(before, after, strict=True))
        for (door, clients), both in reports.items():
            answered = [report["statuses"]["200"] for report in both]
            rate = sum(one["count"] for one in answered) / sum(report["seconds"] for report in both)
            p50, p99 = (1000 * sum(one[name] for one in answered) / 2 for name in ("p50", "p99"))
            figures = f"{rate:.0f} | {rate / everything:.2f} | {rate / least:.2f} | {p50:.1f} | {p99:.1f}"
            print(f"| {name} | {door} | {clients} | {figures} |")
        alone = 1000 * min(before[0].alone, after[0].alone)
        print(f"| {name} | none: {before[0].how} | | {everything:.0f} | 1 | | {alone:.1f} | |")
    predictor.close()
    overload(folder, bundle, images["300×300"], seconds, free=free)


def limits(image: Path, predictor: Predictor, seconds: float) -> tuple[Limit, Limit]:
    """Of everything an answer needs, and of decoding and encoding alone."""
    body = image.read_bytes()
    batches = (1, 8)
    return (
        limit_of(partial(whole, body, predictor), batches, seconds),
        limit_of(partial(bare, body, predictor), (1,), seconds),
    )


def overload(folder: Path, bundle: Path, image: Path, seconds: float, *, free: bool) -> None:
    print("\n| offered, of capacity | in time/s | refused/s | refusal p50 ms | 504/s | 200 but late |")
    print("|---|---|---|---|---|---|")
    with server(bundle, folder / "socket", free=free) as addresses:
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
def server(bundle: Path, socket: Path, *, free: bool) -> Iterator[dict[str, str]]:
    """A server process; its addresses by door."""
    settings = {
        "DRD_MODELS": str(bundle.parent.parent),
        "DRD_HTTP": f"127.0.0.1:0,unix:{socket}",
        "DRD_GRPC": "127.0.0.1:0",
        "DRD_LAME_DUCK_SECONDS": "0",
    }
    command = [sys.executable, "-m", "tests.bench.server" if free else "service.cli"]
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = list[str]()
        while not (lines and lines[-1].startswith("try")):
            lines.append(process.stdout.readline())
            if not lines[-1] or lines[-1].startswith("not ready"):
                raise SystemExit(f"the server did not start: {lines}")
        http, unix, grpc = (line.split()[1].removeprefix("http://") for line in lines[:3])
        yield {"raw": http, "multipart": http, "unix": unix, "grpc": grpc, "stream": grpc}
        process.terminate()


def load(
    addresses: dict[str, str], door: str, image: Path, bundle: Path, seconds: float, clients: int, *more: str
) -> dict[str, Any]:
    """What tests/bench/load.py, in a process of its own, reports."""
    kind = "raw" if door == "unix" else door
    command = [sys.executable, "-m", "tests.bench.load", addresses[door], str(image), "--door", kind]
    command += ["--product", bundle.parent.name, "--clients", str(clients), "--seconds", str(seconds), *more]
    report: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report


if __name__ == "__main__":
    main()
