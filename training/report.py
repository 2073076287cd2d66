"""`report.png`: one sheet that shows a process engineer what training made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.evaluate import ScoredSet
from training.geometry import Geometry
from training.images import read_frames
from training.model.drd import DRD

_SHOWN = 5
_LEGIBLE = 40
"""Characters of a file name, from its end, that fit under a picture."""
_WIDTH, _CURVES = 12.0, 3.6  # inches: of the sheet, and the curves' height
_GOOD, _DEFECTIVE = "#0072b2", "#d55e00"  # Okabe–Ito: distinguishable for colour-blind people

Example = tuple[Path, float]
"""An image and its raw score."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What training achieved.

    `losses`: the mean of each epoch. `learned`, `held_back`: the good images that trained the network, and
    the `select` images, the highest score first. `test`: the labelled test set's; None without one.
    """

    losses: Sequence[float]
    learned: Sequence[Example]
    held_back: Sequence[Example]
    test: ScoredSet | None


def write_report(path: Path, title: str, figures: Figures, drd: DRD, geometry: Geometry) -> None:
    """Loss curve, score histogram, and the best and worst examples with their heat.

    The greatest score of `select` is drawn as the provisional threshold (the one that counts is fitted at
    export, on `calibrate`).
    """
    chosen = _examples(figures)
    held_back = np.array([score for _, score in figures.held_back])
    landscape = geometry.width > geometry.height
    tall, wide = (2 * geometry.height, geometry.width) if landscape else (geometry.height, 2 * geometry.width)
    below = len(chosen) * (_WIDTH / _SHOWN * tall / wide + 0.45)
    figure = Figure(figsize=(_WIDTH, _CURVES + below), layout="constrained")
    figure.suptitle(title, parse_math=False)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(_CURVES, below)))
    left, right = upper.subplots(1, 2)
    left.plot(range(1, len(figures.losses) + 1), figures.losses, color="black")
    left.set(xlabel="epoch", ylabel="mean loss", title="Training")
    _histogram(right, held_back, figures.test)
    grid = lower.subplots(len(chosen), _SHOWN, squeeze=False)
    for row, (name, examples) in zip(grid, chosen.items(), strict=True):
        frames = read_frames([path for path, _ in examples], geometry)
        heat = drd.predict(frames)[0] / float(held_back.max())
        draw_examples(row, name, examples, frames, heat, 0 if landscape else 1)
    figure.savefig(path, dpi=90)


def _examples(figures: Figures) -> dict[str, Sequence[Example]]:
    """The examples worth looking at: the clearest and the least clear of each kind, and the good ones with
    the highest scores, where a defective one among them would show."""
    examples: dict[str, Sequence[Example]] = {"good, held back, highest": figures.held_back[:_SHOWN]}
    if figures.test:
        pairs = zip(figures.test.samples, figures.test.scores.tolist(), strict=True)
        scored = sorted(pairs, key=lambda pair: pair[1])
        bad = [(sample.path, score) for sample, score in scored if sample.defective]
        good = [(sample.path, score) for sample, score in scored if not sample.defective]
        examples = {
            "defective, highest": bad[::-1][:_SHOWN],
            "defective, lowest": bad[:_SHOWN],
            "good, lowest": good[:_SHOWN],
            "good, highest": good[::-1][:_SHOWN],
        }
    examples["good, learned, highest"] = figures.learned[:_SHOWN]
    return {name: chosen for name, chosen in examples.items() if chosen}


def _histogram(axes: Axes, good: NDArray[np.float64], test: ScoredSet | None) -> None:
    axes.set(xlabel="raw score", ylabel="images", title="Scores")
    groups = {"held-back good": (good, "#999999")}
    if test:
        defective = np.array([sample.defective for sample in test.samples])
        groups["test, good"] = (test.scores[~defective], _GOOD)
        groups["test, defective"] = (test.scores[defective], _DEFECTIVE)
    bins = np.histogram_bin_edges(np.concatenate([scores for scores, _ in groups.values()]), 40).tolist()
    for name, (scores, colour) in groups.items():
        axes.hist(scores, bins, alpha=0.6, label=name, color=colour)
    axes.axvline(good.max(), color="black", linestyle="--", label="highest held-back good")
    axes.legend(loc="best")  # the default, which would warn where it takes a second


def draw_examples(
    row: Sequence[Axes],
    name: str,
    examples: Sequence[Example],
    frames: NDArray[np.uint8],
    heat: NDArray[np.float32],
    side: int,
) -> None:
    """Each frame and, along axis `side` of the frame, what is hot in it, between its score and file name."""
    for axes in row:
        axes.axis("off")
    row[0].set_title(name, loc="left", fontsize=9, fontweight="bold")
    for axes, (path, score), frame, hot in zip(row, examples, frames, heat, strict=False):  # or fewer frames
        axes.imshow(np.concatenate([frame, _overlay(frame, hot)], side))
        axes.set_title(f"{score:.3g}", loc="right", fontsize=8)
        file = path.name[-_LEGIBLE:].encode("ascii", "replace").decode()  # the font has few scripts
        axes.text(
            0.5, -0.02, file, transform=axes.transAxes, ha="center", va="top", fontsize=6, parse_math=False
        )


def _overlay(frame: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`heat` [H, W] is a fraction of the highest score of held-back good images."""
    colour = mpl.colormaps["inferno"](np.clip(heat / 2, 0, 1))[:, :, :3] * 255
    strength = 0.7 * np.clip(heat, 0, 1)[:, :, None]
    overlay: NDArray[np.uint8] = (frame * (1 - strength) + colour * strength).astype(np.uint8)
    return overlay
