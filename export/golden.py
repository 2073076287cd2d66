"""Golden frames: inputs on which every engine must agree with the checkpoint, at export and on every machine
that serves the bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from export.bundle.deviations import Reference
from export.bundle.manifest import GOLDEN_STEP, GoldenFrame, GoldenKind
from export.bundle.reading import require_finite
from training.evaluate import Predict
from training.geometry import Geometry
from training.images import read_rgb
from training.synthesis import Damage, synthesise

HEATMAPS = "golden/heatmaps.npy"
_MAX_EACH = 4
"""Frames of each kind."""

Item = TypeVar("Item")
Chosen = tuple[GoldenKind, str, NDArray[np.uint8]]
"""Kind, file name of the image, frame uint8 `[H, W, 3]`."""


@dataclass(frozen=True, slots=True)
class Golden(Reference):
    """Every pixel of the heatmaps, each frame computed alone, and what the manifest says of the frames."""

    entries: tuple[GoldenFrame, ...]

    def save(self, root: Path) -> None:
        """Writes frames and heatmaps into the bundle at `root`."""
        (root / HEATMAPS).parent.mkdir()
        for entry, frame in zip(self.entries, self.frames, strict=True):
            Image.fromarray(frame).save(root / entry.file)
        np.save(root / HEATMAPS, self.heatmaps[:, ::GOLDEN_STEP, ::GOLDEN_STEP])


def choose_golden(
    calibration: Mapping[Path, float],
    threshold: float,
    defective: Sequence[Path],
    geometry: Geometry,
    predict: Predict,
) -> Golden:
    """Up to four frames of each kind: the images of `calibration` (raw score by path) whose scores are
    nearest to the raw `threshold`, other good ones, `defective` ones, and pseudo-abnormal versions of the
    good ones.

    `predict` is the checkpoint's. Raises FrameFailed if its output for one is not finite.
    """
    ranked = sorted(calibration, key=lambda path: abs(calibration[path] - threshold))
    nearest, good = ranked[:_MAX_EACH], spread(ranked[_MAX_EACH:], _MAX_EACH) or ranked[:_MAX_EACH]
    intact = _framed("good", good, geometry)
    chosen = [
        *_framed("near-threshold", nearest, geometry),
        *intact,
        *_framed("defective", spread(defective, _MAX_EACH), geometry),
        *_damaged_versions(intact),
    ]
    entries, scores, heatmaps = [], [], []
    for number, (kind, source, frame) in enumerate(chosen):
        (heatmap,), (score,) = predict(frame[np.newaxis])
        require_finite(heatmap, score, f"{source} ({kind}): the network's output for it")
        file = f"golden/{number:02}-{kind}.png"
        entries.append(GoldenFrame(file=file, kind=kind, source=source, raw_score=float(score)))
        scores.append(score)
        heatmaps.append(heatmap)
    frames = np.stack([frame for _, _, frame in chosen])
    return Golden(frames, np.stack(scores), np.stack(heatmaps), tuple(entries))


def spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most `most` of `items`, evenly spaced."""
    return [items[len(items) * number // most] for number in range(most)] if len(items) > most else items


def _framed(kind: GoldenKind, paths: Sequence[Path], geometry: Geometry) -> list[Chosen]:
    return [(kind, path.name, geometry.apply(read_rgb(path))) for path in paths]


def _damaged_versions(good: Sequence[Chosen]) -> list[Chosen]:
    # "drd" pastes one square at full strength: with four frames, "mix" might give only faint damage
    damaged = pseudo_abnormal(np.stack([frame for _, _, frame in good]), "drd")
    return [("pseudo-abnormal", source, frame) for (_, source, _), frame in zip(good, damaged, strict=True)]


def pseudo_abnormal(good: NDArray[np.uint8], damage: Damage) -> NDArray[np.uint8]:
    """A damaged version of each of the `good` frames uint8 `[N, H, W, 3]`, the same in every run."""
    damaged, _ = synthesise(torch.from_numpy(good), damage, range(len(good)))
    return damaged.round_().clamp_(0, 255).to(torch.uint8).numpy()
