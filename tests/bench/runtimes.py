"""`python -m tests.bench.runtimes BUNDLE`: engine × batch size, in turns on this machine.

Milliseconds per image (the best of the rounds), how many times faster than ONNX Runtime in float32, and the
largest deviations from the checkpoint over the bundle's golden frames, on the score scale.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from export.bundle import BATCH_SIZES, Bundle, BundleError
from export.bundle.engines.choice import open_engine
from export.bundle.engines.engine import Engine, ask
from export.bundle.manifest import GOLDEN_STEP
from export.bundle.predict import cyclic_windows
from export.race import race

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
        times = race(engines, frames, BATCH_SIZES, rounds)
        for name in engines.keys() - times.keys():
            reasons[name] = "it failed in the race"
        for name, engine in ((name, engines[name]) for name in times):
            cells = "".join(
                f"{taken:8.2f} × {base / taken:4.2f} "
                for taken, base in zip(times[name], times.get(BASE, times[name]), strict=True)
            )
            score, heatmap = deviations(bundle, engine)
            yield f"{name:24}{cells}{score:10.1e}{heatmap:10.1e}"
    for name, reason in reasons.items():
        yield f"{name:24} not run: {reason}"


def deviations(bundle: Bundle, engine: Engine) -> tuple[float, float]:
    """The largest of the scores and of the heatmaps, golden frames in batches of all sizes."""
    manifest, frames, thresholds = bundle.manifest, bundle.golden_frames(), bundle.manifest.thresholds
    expected = thresholds.image.scores(np.array([golden.raw_score for golden in manifest.golden]))
    expected_maps = thresholds.pixel.scores(bundle.golden_heatmaps())
    scores, heatmaps = list[float](), list[float]()
    for window in cyclic_windows(len(frames), BATCH_SIZES):
        maps, raw = ask(engine, frames[window])
        pixels = thresholds.pixel.scores(maps[:, ::GOLDEN_STEP, ::GOLDEN_STEP])
        scores.append(float(np.abs(thresholds.image.scores(raw) - expected[window]).max()))
        heatmaps.append(float(np.abs(pixels - expected_maps[window]).max()))
    return max(scores), max(heatmaps)


if __name__ == "__main__":
    main()
