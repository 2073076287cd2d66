"""Quality figures against values worked out by hand, and against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from training.metrics import f1_max, pixel_figures, quality

_NO_MAPS, _NO_MASKS = np.empty((0, 8, 8), np.float32), np.empty((0, 8, 8), np.bool_)


def test_image_figures_of_a_small_set() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    defective = np.array([False, False, True, True])
    figures = quality(scores, defective, _NO_MAPS, _NO_MASKS)
    assert figures.image_auroc == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert figures.image_ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert figures.image_f1_max == pytest.approx(0.8)
    assert (figures.n_good, figures.n_defective, figures.pixel_auroc, figures.aupro) == (2, 2, None, None)


def test_one_kind_of_image_gives_no_figures() -> None:
    scores, defective = np.array([1.0, 2.0]), np.array([False, False])
    assert quality(scores, defective, _NO_MAPS, _NO_MASKS).image_auroc is None


@pytest.mark.parametrize("marked", [False, True])
def test_pixels_of_one_kind_give_no_pixel_figures(marked: bool) -> None:
    masks = np.full((2, 8, 8), marked)
    figures = quality(np.array([0.0, 1.0]), np.array([False, True]), np.zeros((2, 8, 8), np.float32), masks)
    assert (figures.image_auroc, figures.pixel_auroc, figures.aupro) == (1.0, None, None)


def test_f1_max_is_one_when_a_threshold_separates() -> None:
    assert f1_max(np.array([0.0, 0.1, 0.9]), np.array([False, False, True])) == pytest.approx(1)


def _masks() -> NDArray[np.bool_]:
    masks = np.zeros((2, 10, 10), np.bool_)
    masks[0, 0:2, 0:2] = True  # a small defect of 4 pixels
    masks[0, 5:9, 5:10] = True  # and a large one of 20
    return masks


def _aupro(heatmaps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    return pixel_figures(heatmaps, masks)[2]


def test_aupro_of_a_perfect_map_is_one() -> None:
    masks = _masks()
    assert _aupro(masks.astype(np.float32), masks) == pytest.approx(1)


def test_aupro_counts_regions_alike_whatever_their_size() -> None:
    masks = _masks()
    only_small, only_large = masks.astype(np.float32), masks.astype(np.float32)
    only_small[0, 5:9, 5:10] = -1  # reached only after every other pixel
    only_large[0, 0:2, 0:2] = -1
    assert _aupro(only_small, masks) == pytest.approx(0.5)
    assert _aupro(only_large, masks) == pytest.approx(0.5)


def test_aupro_of_a_constant_map_is_the_diagonal_s() -> None:
    # All pixels at once: the curve is the straight line from (0, 0) to (1, 1), its mean up to 0.3 is 0.15.
    assert _aupro(np.zeros((2, 10, 10), np.float32), _masks()) == pytest.approx(0.15)


def _aupro_by_definition(heatmaps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float) -> float:
    """Every value tried as a threshold, every region looked at."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == label) for label in range(1, count + 1)]
    x, y = [0.0], [0.0]
    for threshold in np.unique(heatmaps)[::-1]:
        hot = heatmaps >= threshold
        x.append(hot[~masks].mean())
        y.append(np.mean([hot[index][region].mean() for index, region in regions]))
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a <= limit] + [(limit, np.interp(limit, x, y))]
    return float(np.trapezoid([b for _, b in kept], [a for a, _ in kept]) / limit)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]), st.floats(0.02, 0.9))
def test_pixel_figures_are_those_of_their_definitions(seed: int, values: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    heatmaps = rng.integers(0, values, (3, 6, 7)).astype(np.float32)  # few values: many equal pixels
    masks = rng.random((3, 6, 7)) < share
    masks[0, 0, :2] = True, False
    auroc, ap, overlap = pixel_figures(heatmaps, masks)
    assert auroc == pytest.approx(roc_auc_score(masks.ravel(), heatmaps.ravel()))
    assert ap == pytest.approx(average_precision_score(masks.ravel(), heatmaps.ravel()))
    assert overlap == pytest.approx(_aupro_by_definition(heatmaps, masks, 0.3))


def test_pixel_figures_need_no_good_image() -> None:
    heatmaps = np.zeros((1, 4, 4), np.float32)
    heatmaps[0, 0] = 1
    result = quality(np.array([1.0]), np.array([True]), heatmaps, heatmaps > 0)
    assert (result.image_auroc, result.pixel_auroc) == (None, 1)
