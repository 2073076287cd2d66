"""Pictures → frames → heatmaps and raw scores, by a checkpoint or a bundle's engine alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundle.frame import FrameStatistics, frame_statistics
from export.bundle.manifest import BATCH_SIZES
from training.evaluate import Predict
from training.geometry import Geometry, read_rgb


@dataclass(frozen=True, slots=True)
class Scored:
    """One picture's `frame` uint8 [H, W, 3] and the raw answer to it; `source_size` is (width, height)."""

    path: Path
    frame: NDArray[np.uint8]
    source_size: tuple[int, int]
    statistics: FrameStatistics
    heatmap: NDArray[np.float32]
    raw_score: float


def score_pictures(
    predict: Predict, paths: Iterable[Path], geometry: Geometry, label: str
) -> Iterator[Scored]:
    """Scores pictures in order, in batches as the service forms them, with a progress bar called `label`.

    Raises UnreadableImage, naming the file.
    """
    paths = list(paths)
    with tqdm(total=len(paths), desc=label, unit="image", leave=False, disable=None) as progress:
        while paths:
            size = max(size for size in BATCH_SIZES if size <= len(paths))
            batch, paths = paths[:size], paths[size:]
            pictures = [read_rgb(path) for path in batch]
            frames = np.stack([geometry.apply(rgb) for rgb in pictures])
            heatmaps, scores = predict(frames)
            for path, rgb, frame, heatmap, score in zip(
                batch, pictures, frames, heatmaps, scores, strict=True
            ):
                source_size = (rgb.shape[1], rgb.shape[0])
                statistics = frame_statistics(frame, source_size)
                yield Scored(path, frame, source_size, statistics, heatmap, float(score))
            progress.update(size)
