"""`report.png`: one sheet that shows a process engineer what training made."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from PIL import Image

from training.evaluate import Scored, read_frames
from training.geometry import Geometry
from training.model.drd import DRD

mpl.use("Agg")

_SHOWN = 5
_GOOD, _DEFECTIVE = "#0072b2", "#d55e00"  # Okabe–Ito: told apart by colour-blind eyes


def write_report(
    path: Path,
    title: str,
    losses: Sequence[float],
    good_scores: NDArray[np.float64],
    test: Scored | None,
    drd: DRD,
    geometry: Geometry,
) -> None:
    """Loss curve, score histogram, and the best and worst examples with their heat.

    Args:
        losses: mean loss of each epoch.
        good_scores: raw scores of the `select` images; the greatest is drawn as the provisional threshold
            (the one that counts is fitted at export, on `calibrate`).
        test: the labelled test set, where there is one.
    """
    figure = Figure(figsize=(12, 10 if test else 4), layout="constrained")
    figure.suptitle(title)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 2 if test else 0.01)))
    left, right = upper.subplots(1, 2)
    left.plot(range(1, len(losses) + 1), losses, color="black")
    left.set(xlabel="epoch", ylabel="mean loss", title="Training")
    _histogram(right, good_scores, test)
    if test:
        _gallery(lower, test, drd, float(good_scores.max()), geometry)
    figure.savefig(path, dpi=90)


def _examples(test: Scored) -> dict[str, list[int]]:
    """Indices worth looking at: of each kind, those told most clearly and those told worst."""
    defective = np.array([sample.defective for sample in test.samples])
    by_score = np.argsort(test.scores)
    bad, good = by_score[defective[by_score]], by_score[~defective[by_score]]
    return {
        "defective, highest": bad[::-1][:_SHOWN].tolist(),
        "defective, lowest": bad[:_SHOWN].tolist(),
        "good, lowest": good[:_SHOWN].tolist(),
        "good, highest": good[::-1][:_SHOWN].tolist(),
    }


def _histogram(axes: Axes, good: NDArray[np.float64], test: Scored | None) -> None:
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
    axes.legend()


def _gallery(figure: SubFigure, test: Scored, drd: DRD, top: float, geometry: Geometry) -> None:
    chosen = {name: indices for name, indices in _examples(test).items() if indices}
    grid = figure.subplots(len(chosen), _SHOWN * 2, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, (name, indices) in zip(grid, chosen.items(), strict=True):
        row[0].set_title(name, loc="left", fontsize=9, fontweight="bold")
        frames = read_frames([test.samples[index].path for index in indices], geometry)
        for column, (frame, heat) in enumerate(zip(frames, drd.predict(frames)[0], strict=True)):
            row[2 * column].imshow(frame)
            row[2 * column + 1].imshow(_overlay(frame, heat / top))
            row[2 * column + 1].set_title(f"{test.scores[indices[column]]:.3g}", fontsize=8)


def _overlay(frame: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    colour = mpl.colormaps["inferno"](np.clip(heat / 2, 0, 1))[:, :, :3] * 255
    strength = 0.7 * np.clip(heat, 0, 1)[:, :, None]
    return Image.fromarray((frame * (1 - strength) + colour * strength).astype(np.uint8))
