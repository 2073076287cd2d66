"""Quality figures: image AUROC, AP and F1-max, pixel AUROC and AP, AUPRO. NumPy, SciPy and scikit-learn."""

from dataclasses import asdict, dataclass

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

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def quality(
    scores: NDArray[np.floating],
    defective: NDArray[np.bool_],
    heatmaps: NDArray[np.float32] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> Quality:
    """All figures at once.

    Args:
        scores, defective: `[n]`.
        heatmaps, masks: `[n, H, W]`, of images with a mask (good ones: an empty one).
    """
    n_defective = int(defective.sum())
    counts = (len(defective) - n_defective, n_defective)
    if not all(counts):
        return Quality(*counts)
    image = (
        float(roc_auc_score(defective, scores)),
        float(average_precision_score(defective, scores)),
        f1_max(scores, defective),
    )
    if heatmaps is None or masks is None or not masks.any():
        return Quality(*counts, *image)
    flat_masks, flat_maps = masks.ravel(), heatmaps.ravel()
    pixel = (
        float(roc_auc_score(flat_masks, flat_maps)),
        float(average_precision_score(flat_masks, flat_maps)),
    )
    return Quality(*counts, *image, *pixel, aupro(heatmaps, masks))


def f1_max(scores: NDArray[np.floating], defective: NDArray[np.bool_]) -> float:
    """The best F1 any threshold reaches."""
    precision, recall, _ = precision_recall_curve(defective, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def aupro(heatmaps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = _AUPRO_LIMIT) -> float:
    """Area under the per-region overlap up to a false-positive rate of `limit`, over its greatest value.

    One threshold for the whole test set (Bergmann et al., IJCV 2021): every connected defect counts alike,
    whatever its size. Exact: all pixels are sorted once. `[n, H, W]` twice → 0–1.
    """
    weight = np.zeros(masks.shape, np.float64)  # a defect pixel's share of the mean overlap
    regions = 0
    for share, mask in zip(weight, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        if count:
            share[mask] = 1 / np.bincount(labels.ravel())[labels[mask]]
            regions += count
    order = np.argsort(heatmaps, axis=None)[::-1]
    overlap = np.cumsum(weight.ravel()[order]) / regions
    false_positives = np.cumsum(~masks.ravel()[order]) / (~masks).sum()
    # Pixels of equal value are reached by one threshold: only the last of each group is a point.
    values = heatmaps.ravel()[order]
    last = np.append(values[1:] != values[:-1], True)
    x, y = np.append(0.0, false_positives[last]), np.append(0.0, overlap[last])
    inside = x <= limit
    x_limited = np.append(x[inside], limit)
    y_limited = np.append(y[inside], np.interp(limit, x, y))
    return float(np.trapezoid(y_limited, x_limited) / limit)
