import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from export.bundle.scale import Scale

RAW = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("raw", "score"),
    [(1.0, 0.0), (0.0, 0.0), (2.0, 0.25), (3.0, 0.5), (5.0, 0.75), (21.0, 0.95), (math.inf, 1.0)],
)
def test_score_by_hand(raw: float, score: float) -> None:
    """Median 1 and threshold 3, so z = (raw - 1) / 2."""
    assert Scale(median=1.0, threshold=3.0).score(raw) == pytest.approx(score)


@given(median=RAW, gap=st.floats(1e-3, 1e6))
def test_threshold_is_exactly_one_half(median: float, gap: float) -> None:
    scale = Scale(median=median, threshold=median + gap)
    assert scale.score(scale.threshold) == 0.5
    assert scale.scores(np.array([scale.threshold]))[0] == 0.5


@given(threshold=st.floats(2.0**-10, 2.0**20, width=32), median=st.floats(-1e6, 0))
def test_a_float32_pixel_at_the_threshold_is_exactly_one_half(threshold: float, median: float) -> None:
    scale = Scale(median=median, threshold=threshold)
    assert scale.scores(np.array([threshold], np.float32))[0] == 0.5


@given(first=RAW, second=RAW)
def test_a_higher_raw_value_never_scores_lower(first: float, second: float) -> None:
    scale = Scale(median=-3.0, threshold=4.5)
    low, high = sorted((first, second))
    assert 0 <= scale.score(low) <= scale.score(high) <= 1


def test_a_map_in_any_order_of_memory_is_scored_alike() -> None:
    scale, raw = Scale(median=0.0, threshold=0.5), np.array([[0.1, 2.0], [3.0, 0.2]])
    assert scale.scores(np.asfortranarray(raw)).tolist() == scale.scores(raw).tolist()


def test_nan_stays_nan() -> None:
    assert math.isnan(Scale(median=0, threshold=1).score(math.nan))


@pytest.mark.parametrize(("median", "threshold"), [(1, 1), (2, 1), (0, math.nan), (0, math.inf)])
def test_an_invalid_scale_is_refused(median: float, threshold: float) -> None:
    with pytest.raises(ValidationError):
        Scale(median=median, threshold=threshold)
