"""Good images have three uses, and no image two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.splits import split


@given(st.integers(10, 1500), st.integers(0, 2**31))
def test_every_image_has_exactly_one_use(total: int, seed: int) -> None:
    shares = split(range(total), seed)
    assert sorted(i for share in shares.values() for i in share) == list(range(total))
    assert all(shares.values())


@given(st.integers(10, 1500), st.integers(0, 2**31))
def test_the_shares_have_the_sizes_promised(total: int, seed: int) -> None:
    shares = split(range(total), seed)
    assert len(shares["select"]) <= min(48, max(1, round(total / 10)))
    assert len(shares["calibrate"]) >= round(0.2 * total)
    if total >= 400:
        assert len(shares["calibrate"]) >= 100
    assert len(shares["fit"]) >= 0.6 * total


@given(st.integers(100, 1500), st.integers(0, 2**31))
def test_consecutive_names_stay_together(total: int, seed: int) -> None:
    use = {i: name for name, share in split(range(total), seed).items() for i in share}
    for start in range(0, total, 4):
        assert len({use[i] for i in range(start, min(start + 4, total))}) == 1


@given(st.lists(st.integers(0, 30), min_size=10, max_size=300), st.integers(0, 2**31))
def test_images_of_one_part_stay_together(parts: list[int], seed: int) -> None:
    items = list(enumerate(parts))
    try:
        shares = split(items, seed, lambda item: str(item[1]))
    except ValueError:
        assert len(set(parts)) < 15
        return
    assert sorted(item for share in shares.values() for item in share) == items
    assert len({(name, part) for name, share in shares.items() for _, part in share}) == len(set(parts))


def test_too_few_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="100 images of 2 parts can't be divided"):
        split(range(100), 0, lambda index: str(index % 2))


def test_the_seed_decides() -> None:
    assert split(range(200), 3) == split(range(200), 3)
    assert split(range(200), 3) != split(range(200), 4)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        split(range(9), 0)
