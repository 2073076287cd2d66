"""What the machine could do without a server: the same work in bare threads."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from operator import itemgetter
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from export.bundle import IMAGE_FORMATS, Finding, Predictor, Size, heatmap_png, mask_png, read, to_rgb
from service.workers.image import ImageLimits, decode

Work = Callable[[int], object]
"""Does all of the work for a batch of N frames."""


class Answer(NamedTuple):
    finding: Finding
    heatmap: bytes
    mask: bytes


@dataclass(frozen=True)
class Way:
    """How the machine is kept busy."""

    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads} threads, batches of {self.batch}"


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
    mask_png(_MAP, Size(width=rgb.shape[1], height=rgb.shape[0]))


def whole(body: bytes, predictor: Predictor, batch: int) -> list[Answer]:
    """Everything the answer needs: digest and statistics, the engine and the reading too."""
    manifest = predictor.bundle.manifest
    images = [decode(body, manifest.geometry, declared=None, limits=_LIMITS) for _ in range(batch)]
    frames = np.stack([image.pixels for image in images])
    with _ENGINE:
        prediction = predictor.predict(frames)
    answers = list[Answer]()
    for image, heatmap, score in zip(images, prediction.heatmap, prediction.score, strict=True):
        finding, scores = read(
            heatmap, float(score), image.statistics, manifest, predictor.guard_band, image.size
        )
        answers.append(Answer(finding, heatmap_png(scores), mask_png(scores, image.size)))
    return answers


_MAP = smooth_map()
_LIMITS = ImageLimits(pixels=10**8, side=10**5, images=1)
_ENGINE = threading.Lock()
_TURNS = 3


def best_way(work: Work, batches: tuple[int, ...], seconds: float) -> Way:
    """The best of one to three threads and of the batch sizes, each tried for so long, in turns."""
    ways = [Way(threads, batch) for threads, batch in product((1, 2, 3), batches)]
    turns = [[rate(work, way, seconds / _TURNS) for way in ways] for _ in range(_TURNS)]
    return max(zip(ways, map(sum, zip(*turns, strict=True)), strict=True), key=itemgetter(1))[0]


def rate(work: Work, way: Way, seconds: float) -> float:
    """Frames per second; of the batch that a thread is at when the time is over, its part before."""
    done, started = [0.0] * way.threads, time.monotonic()
    ends = started + seconds

    def loop(number: int) -> None:
        while (begun := time.monotonic()) < ends:
            work(way.batch)
            ended = time.monotonic()
            done[number] += way.batch * (min(ended, ends) - begun) / (ended - begun)

    running = [threading.Thread(target=loop, args=(number,)) for number in range(way.threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / seconds


def alone(work: Work, seconds: float) -> float:
    """The median of a lone frame's seconds."""
    times, ends = list[float](), time.monotonic() + seconds
    while (started := time.monotonic()) < ends:
        work(1)
        times.append(time.monotonic() - started)
    return median(times)
