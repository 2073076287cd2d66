"""Pictures → frames → heatmaps and raw scores, with a checkpoint or with an engine of a bundle."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundle.frame import FrameStatistics, frame_statistics
from export.bundle.manifest import BATCH_SIZES
from export.bundle.reading import FrameFailed
from training.evaluate import Predict
from training.geometry import Geometry, read_rgb


@dataclass(frozen=True, slots=True)
class Scored:
    """A picture's `frame` uint8 [H, W, 3], and the raw `heatmap` float32 [H, W] and score for it;
    `source_size` (width, height) is the picture's, before it was resized."""

    path: Path
    frame: NDArray[np.uint8]
    source_size: tuple[int, int]
    statistics: FrameStatistics
    heatmap: NDArray[np.float32]
    raw_score: float


def score_pictures(
    predict: Predict,
    paths: Iterable[Path],
    geometry: Geometry,
    label: str,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Iterator[Scored]:
    """Scores pictures in order, with a progress bar titled `label`, in the largest of `batch_sizes` that the
    rest fills; 1 is among them.

    Raises UnreadableImage or, if the output is not finite, FrameFailed, naming the file.
    """
    paths = list(paths)
    with tqdm(total=len(paths), desc=label, unit="image", leave=False, disable=None) as progress:
        while paths:
            size = max(size for size in batch_sizes if size <= len(paths))
            batch, paths = paths[:size], paths[size:]
            pictures = [read_rgb(path) for path in batch]
            frames = np.stack([geometry.apply(rgb) for rgb in pictures])
            heatmaps, scores = predict(frames)
            for path, rgb, frame, heatmap, score in zip(
                batch, pictures, frames, heatmaps, scores, strict=True
            ):
                if not (np.isfinite(score) and np.isfinite(heatmap).all()):
                    raise FrameFailed(f"{path}: the network's output for it is NaN or infinite")
                source_size = (rgb.shape[1], rgb.shape[0])
                statistics = frame_statistics(frame, source_size)
                yield Scored(path, frame, source_size, statistics, heatmap, float(score))
            progress.update(size)
