"""What the machine could do without a server: the same work in bare threads, one per core."""

import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from export.bundle import IMAGE_FORMATS, Geometry, heatmap_png, mask_png, to_rgb

GEOMETRY = Geometry(256, 256)


def smooth_map(seed: int = 0) -> NDArray[np.float32]:
    """A map [256, 256] as a network gives it: smooth, mostly low, over the threshold in places."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(256, 256)), 8)
    return np.clip(0.2 + 0.15 * noise / noise.std(), 0, 1).astype(np.float32)


def work(body: bytes, scores: NDArray[np.float32]) -> None:
    """Decode, resize, encode: nothing that could be left out."""
    rgb = to_rgb(Image.open(BytesIO(body), formats=IMAGE_FORMATS))
    GEOMETRY.apply(rgb)
    heatmap_png(scores)
    mask_png(scores, (rgb.shape[1], rgb.shape[0]))


def limit(body: bytes, threads: int, seconds: float) -> tuple[float, float]:
    """Frames per second of `threads` threads, and the median seconds of one frame."""
    scores, times = smooth_map(), list[float]()
    ends = time.monotonic() + seconds

    def loop() -> None:
        while (started := time.monotonic()) < ends:
            work(body, scores)
            times.append(time.monotonic() - started)

    started = time.monotonic()
    running = [threading.Thread(target=loop) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(times) / (time.monotonic() - started), sorted(times)[len(times) // 2]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for threads in (1, 2, 3):
            rate, median = limit(Path(name).read_bytes(), threads, 3)
            print(f"{name} {threads} threads: {rate:.0f}/s, median {1000 * median:.2f} ms")
