"""`python -m tests.bench.runtimes BUNDLE`: engine × batch size, in turns on this machine.

Milliseconds per image (the best of the rounds), how many times faster than ONNX Runtime in float32, and the
largest deviations from the checkpoint over the bundle's golden frames, on the score scale.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from export.benchmark import benchmark
from export.bundle import BATCH_SIZES, Bundle, BundleError
from export.bundle.deviations import cyclic_windows, deviations
from export.bundle.engines.engine import Engine, run_engine
from export.bundle.engines.opening import open_engine

BASE = "onnx-f32"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.runtimes", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print("\n".join(table(Bundle.open(options.bundle), options.rounds)))


def table(bundle: Bundle, rounds: int) -> Iterator[str]:
    """Lines, one per engine of `bundle`."""
    manifest, frames = bundle.manifest, bundle.golden_frames()
    size = f"{manifest.geometry.height} × {manifest.geometry.width}"
    yield f"{manifest.product} version {manifest.version}, {size}; best ms per image of {rounds} rounds"
    heads = "".join(f"{f'batch {size}':>16}" for size in BATCH_SIZES)
    yield f"{'engine':24}{heads}{'score':>10}{'heatmap':>10}"
    engines, reasons = dict[str, Engine](), dict[str, str]()
    with ExitStack() as stack:
        for entry in manifest.engines:
            try:
                engine = open_engine(entry, bundle.path, manifest.geometry)
            except BundleError as error:
                reasons[entry.id] = str(error)
            else:
                engines[entry.id] = stack.enter_context(closing(engine))
        times = benchmark(engines, frames, BATCH_SIZES, rounds)
        for name in engines.keys() - times.keys():
            reasons[name] = "it failed beside the others"
        for name, engine in ((name, engines[name]) for name in times):
            cells = "".join(
                f"{taken:8.2f} × {base / taken:4.2f} "
                for taken, base in zip(times[name], times.get(BASE, times[name]), strict=True)
            )
            score, heatmap = largest_deviations(bundle, engine)
            yield f"{name:24}{cells}{score:10.1e}{heatmap:10.1e}"
    for name, reason in reasons.items():
        yield f"{name:24} not run: {reason}"


def largest_deviations(bundle: Bundle, engine: Engine) -> tuple[float, float]:
    """Of the scores and of the heatmaps, golden frames in batches of all sizes."""
    reference = bundle.reference()
    windows = cyclic_windows(len(reference.frames), BATCH_SIZES)
    seen = list(deviations(partial(run_engine, engine), reference, bundle.manifest.thresholds, windows))
    return max(one.of_score for one in seen), max(one.of_heatmap for one in seen)


if __name__ == "__main__":
    main()
