"""Quality figures: image AUROC, AP and F1-max, pixel AUROC and AP, AUPRO. NumPy, SciPy and scikit-learn."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

_AUPRO_LIMIT = 0.3


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one labelled test set, 0–1; None where there is nothing to compute them from."""

    n_good: int
    n_defective: int
    image_auroc: float | None = None
    image_ap: float | None = None
    image_f1_max: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    aupro: float | None = None
    n_masks_lost: int | None = None
    """Masks of defects too thin for the network's size: not one pixel is left. In no pixel figure."""

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def quality(
    scores: NDArray[np.floating],
    defective: NDArray[np.bool_],
    heatmaps: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> Quality:
    """All figures at once: of images' `scores` and whether they are `defective`, `[n]`, and of the `heatmaps`
    and `masks`, `[m, H, W]`, of those with a mask (good ones: an empty one); m may be 0."""
    n_defective = int(defective.sum())
    result = Quality(len(defective) - n_defective, n_defective)
    if result.n_good and result.n_defective:
        result = replace(
            result,
            image_auroc=float(roc_auc_score(defective, scores)),
            image_ap=float(average_precision_score(defective, scores)),
            image_f1_max=f1_max(scores, defective),
        )
    if masks.any() and not masks.all():
        auroc, ap, aupro = pixel_figures(heatmaps, masks)
        result = replace(result, pixel_auroc=auroc, pixel_ap=ap, aupro=aupro)
    return result


def f1_max(scores: NDArray[np.floating], defective: NDArray[np.bool_]) -> float:
    """The best F1 any threshold reaches, 0–1. Scores and labels are `[n]`, with at least one of each kind."""
    precision, recall, _ = precision_recall_curve(defective, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def pixel_figures(heatmaps: NDArray[np.float32], masks: NDArray[np.bool_]) -> tuple[float, float, float]:
    """AUROC, AP and AUPRO over all pixels of `[n, H, W]`, some of them defective and some good.

    AUPRO: area under the per-region overlap up to a false-positive rate of 0.3, over its greatest value. One
    threshold for the whole test set (Bergmann et al., IJCV 2021): every connected defect counts alike,
    whatever its size.

    Exact, though only the good pixels are sorted: the curves have their corners where a threshold meets a
    defective one. So it takes 5 bytes per pixel beside its arguments, where scikit-learn takes ten times as
    many.
    """
    good = heatmaps[~masks]
    good.sort()
    values, at = np.unique(heatmaps[masks], return_inverse=True)
    # Per value of a defective pixel, the highest first: good pixels above it, and with those equal to it,
    # which one threshold reaches together with the defective ones.
    above, reached = (len(good) - np.searchsorted(good, values[::-1], side) for side in ("right", "left"))
    recall, overlap = _cumulative(at, None), _cumulative(at, _region_weights(masks))
    precision = recall * len(at) / (recall * len(at) + reached)

    false_positives = np.concatenate([[0], np.stack([above, reached], 1).ravel(), [len(good)]]) / len(good)
    recalled, overlapped = (np.append([0, 0], np.repeat(curve, 2)) for curve in (recall, overlap))
    inside = false_positives <= _AUPRO_LIMIT
    x = np.append(false_positives[inside], _AUPRO_LIMIT)
    y = np.append(overlapped[inside], np.interp(_AUPRO_LIMIT, false_positives, overlapped))
    return (
        float(np.trapezoid(recalled, false_positives)),
        float(np.sum(np.diff(recall, prepend=0) * precision)),
        float(np.trapezoid(y, x) / _AUPRO_LIMIT),
    )


def _cumulative(at: NDArray[np.intp], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Share of all defective pixels, weighted, at each value `at` numbers or above it, the highest first."""
    total = np.cumsum(np.bincount(at, weights)[::-1], dtype=np.float64)
    return np.asarray(total / total[-1])


def _region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each defective pixel, in the order of `heatmaps[masks]`, one over the size of its region."""
    weights = []
    for mask in masks[masks.any((1, 2))]:
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        weights.append(1 / np.bincount(labels.ravel())[labels[mask]])
    return np.concatenate(weights)
