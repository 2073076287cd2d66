"""`python -m tests.bench.history [BUNDLE]`: what remembering verdicts costs, while nobody looks and
while the operator page is open in Chromium.

CPU time of the service, in turns with a service that remembers nothing; without BUNDLE on the engine that
costs nothing, where every microsecond shows.
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import httpx
from playwright.sync_api import sync_playwright

from tests.bench.engines import FREE
from tests.bench.serving import load, make_images, server
from tests.bundles import make_bundle

ROUNDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="MODELS_DIR/PRODUCT/VERSION for the real engine")
    parser.add_argument("--seconds", type=float, default=2, help="per load")
    given = parser.parse_args()
    with TemporaryDirectory() as name, ExitStack() as servers:
        folder = Path(name)
        bundle = given.bundle or make_bundle(folder / "models", "bench", size=(256, 256))
        image = make_images(folder)["300×300"]
        engine = "auto" if given.bundle else FREE
        on, off = (servers.enter_context(_service(folder, bundle, size, engine)) for size in (2**27, 0))

        def compare(what: str, *options: str) -> None:
            turns = [(on, off), (off, on)] * (ROUNDS // 2)
            costs = [
                {target: _cost(target, image, bundle, given.seconds, *options) for target in turn}
                for turn in turns
            ]
            (cost, rate), (without, _) = (
                [mean(values) for values in zip(*(cost[target] for cost in costs), strict=True)]
                for target in (on, off)
            )
            more = cost - without
            figures = f"{rate:.0f} | {1e6 * without:.0f} | {1e6 * cost:.0f} | {100 * more / without:+.1f} % "
            print(f"| {what} | {figures}| {1000 * more * rate:+.0f} |", flush=True)

        print("| load | frames/s | µs of CPU per frame without | with | difference | ms of CPU a second |")
        print("|---|---|---|---|---|---|")
        compare("as fast as it can, nobody looks")
        with _page(f"http://{on}"):
            compare("as fast as it can, one page open")
            compare("20 frames a second, one page open", "--rate", "20")


@contextmanager
def _service(folder: Path, bundle: Path, history_bytes: int, engine: str) -> Iterator[str]:
    kept = {"DRD_HISTORY_BYTES": str(history_bytes)}
    with server(bundle, folder / f"socket-{history_bytes}", engine, **kept) as addresses:
        yield addresses["raw"]


@contextmanager
def _page(url: str) -> Iterator[None]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        browser.new_page().goto(url)
        yield
        browser.close()


def _cost(target: str, image: Path, bundle: Path, seconds: float, *options: str) -> tuple[float, float]:
    """CPU seconds of the service per frame answered, and how many were answered in a second."""
    before = _cpu_seconds(target)
    report = load({"raw": target}, "raw", image, bundle, seconds, 8, *options)
    frames = int(report["statuses"]["200"]["count"])
    return (_cpu_seconds(target) - before) / frames, frames / float(report["seconds"])


def _cpu_seconds(target: str) -> float:
    found = re.search(r"^process_cpu_seconds_total (\S+)", httpx.get(f"http://{target}/metrics").text, re.M)
    assert found
    return float(found[1])


if __name__ == "__main__":
    main()
