"""Quality figures against values worked out by hand."""

import numpy as np
import pytest

from training.metrics import aupro, f1_max, quality


def test_image_figures_of_a_small_set() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    defective = np.array([False, False, True, True])
    figures = quality(scores, defective)
    assert figures.image_auroc == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert figures.image_ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert figures.image_f1_max == pytest.approx(0.8)
    assert (figures.n_good, figures.n_defective, figures.pixel_auroc, figures.aupro) == (2, 2, None, None)


def test_one_kind_of_image_gives_no_figures() -> None:
    assert quality(np.array([1.0, 2.0]), np.array([False, False])).image_auroc is None


def test_f1_max_is_one_when_a_threshold_separates() -> None:
    assert f1_max(np.array([0.0, 0.1, 0.9]), np.array([False, False, True])) == pytest.approx(1)


def _masks() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    masks = np.zeros((2, 10, 10), np.bool_)
    masks[0, 0:2, 0:2] = True  # a small defect of 4 pixels
    masks[0, 5:9, 5:10] = True  # and a large one of 20
    return masks


def test_aupro_of_a_perfect_map_is_one() -> None:
    masks = _masks()
    assert aupro(masks.astype(np.float32), masks) == pytest.approx(1)


def test_aupro_counts_regions_alike_whatever_their_size() -> None:
    masks = _masks()
    only_small, only_large = masks.astype(np.float32), masks.astype(np.float32)
    only_small[0, 5:9, 5:10] = -1  # reached only after every other pixel
    only_large[0, 0:2, 0:2] = -1
    assert aupro(only_small, masks) == pytest.approx(0.5)
    assert aupro(only_large, masks) == pytest.approx(0.5)


def test_aupro_of_a_constant_map_is_the_diagonal_s() -> None:
    # All pixels at once: the curve is the straight line from (0, 0) to (1, 1), its mean up to 0.3 is 0.15.
    assert aupro(np.zeros((2, 10, 10), np.float32), _masks()) == pytest.approx(0.15)
