"""What the machine could do without a server: the same work in bare threads."""

import threading
import time
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from export.bundle import IMAGE_FORMATS, Predictor, heatmap_png, mask_png, read, to_rgb
from service.image import ImageLimits, decode


@dataclass(frozen=True)
class Limit:
    """Frames per second at the best of all ways tried, and the seconds of a frame alone."""

    rate: float
    alone: float
    how: str


def smooth_map(size: tuple[int, int] = (256, 256)) -> NDArray[np.float32]:
    """A map as a network gives it: smooth, mostly low, over 0.5 in places."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=size), 8)
    scores: NDArray[np.float32] = np.clip(0.2 + 0.15 * noise / noise.std(), 0, 1).astype(np.float32)
    return scores


def bare(body: bytes, predictor: Predictor, batch: int) -> None:
    """Decode, resize, encode, and no more."""
    rgb = to_rgb(Image.open(BytesIO(body), formats=IMAGE_FORMATS))
    predictor.bundle.manifest.geometry.apply(rgb)
    heatmap_png(_MAP)
    mask_png(_MAP, (rgb.shape[1], rgb.shape[0]))


def whole(body: bytes, predictor: Predictor, batch: int) -> None:
    """Everything the answer needs: digest and statistics, the engine and the reading too."""
    manifest = predictor.bundle.manifest
    frames = [decode(body, manifest.geometry, declared=None, limits=_LIMITS) for _ in range(batch)]
    pixels = np.stack([frame.pixels for frame in frames])
    with _ENGINE:
        prediction = predictor.predict(pixels)
    for frame, heatmap, score in zip(frames, prediction.heatmap, prediction.score, strict=True):
        size = frame.width, frame.height
        reading = read(heatmap, float(score), frame.statistics, manifest, predictor.guard_band, size)
        heatmap_png(reading.pixel_scores)
        mask_png(reading.pixel_scores, size)


_MAP = smooth_map()
_LIMITS = ImageLimits(pixels=10**8, side=10**5, frames=1)
_ENGINE = threading.Lock()


def limit_of(work: "partial[None]", batches: tuple[int, ...], seconds: float) -> Limit:
    """The best of one to three threads and of the batch sizes."""
    rates = {
        f"{threads} threads, batches of {batch}": _rate(partial(work, batch), threads, seconds) * batch
        for threads, batch in product((1, 2, 3), batches)
    }
    how = max(rates, key=lambda how: rates[how])
    return Limit(rates[how], _median(partial(work, 1), seconds), how)


def _rate(once: "partial[None]", threads: int, seconds: float) -> float:
    done, started = [0] * threads, time.monotonic()

    def loop(number: int) -> None:
        while time.monotonic() - started < seconds:
            once()
            done[number] += 1

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def _median(once: "partial[None]", seconds: float) -> float:
    times, ends = list[float](), time.monotonic() + seconds
    while (started := time.monotonic()) < ends:
        once()
        times.append(time.monotonic() - started)
    return sorted(times)[len(times) // 2]
