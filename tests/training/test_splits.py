"""Good images have three uses, and no image two."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.splits import split


@given(st.integers(10, 1500), st.integers(0, 2**31))
def test_every_image_has_exactly_one_use(total: int, seed: int) -> None:
    subsets = split(total, seed)
    assert sorted(i for subset in subsets.values() for i in subset) == list(range(total))
    assert all(subsets.values())


@given(st.integers(10, 1500), st.integers(0, 2**31))
def test_the_subsets_have_the_sizes_promised(total: int, seed: int) -> None:
    subsets = split(total, seed)
    assert len(subsets["select"]) <= min(48, max(1, round(total / 10)))
    assert len(subsets["calibrate"]) >= round(0.2 * total)
    if total >= 400:
        assert len(subsets["calibrate"]) >= 100
    assert len(subsets["fit"]) >= 0.6 * total


@given(st.integers(100, 1500), st.integers(0, 2**31))
def test_consecutive_names_stay_together(total: int, seed: int) -> None:
    use = {i: name for name, subset in split(total, seed).items() for i in subset}
    for start in range(0, total, 4):
        assert len({use[i] for i in range(start, min(start + 4, total))}) == 1


@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=60).filter(lambda n: sum(n) >= 10), st.integers(0, 99)
)
def test_images_of_one_part_stay_together(sizes: list[int], seed: int) -> None:
    parts = [str(part) for part, size in enumerate(sizes) for _ in range(size)]
    total = len(parts)
    try:
        subsets = split(total, seed, parts)
    except ValueError:
        assert max(sizes) > total / 10
        return
    assert sorted(i for subset in subsets.values() for i in subset) == list(range(total))
    assert len({(name, parts[i]) for name, subset in subsets.items() for i in subset}) == len(sizes)
    wanted = max(round(0.2 * total), 100 if total >= 400 else 0)
    assert wanted / 2 <= len(subsets["calibrate"]) <= max(1, 1.5 * wanted)
    assert len(subsets["select"]) <= max(min(sizes), min(48, total / 10 + 0.5))
    assert len(subsets["fit"]) >= total / 2


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([400, *[1] * 100], (400, 33, 67)),
        ([52, 3, 3, 2], (52, 2, 6)),
        ([5] * 4, (10, 5, 5)),
        ([50, 30, 20], (50, 20, 30)),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_part_with_many_images_trains(sizes: list[int], expected: tuple[int, ...], seed: int) -> None:
    parts = [str(part) for part, size in enumerate(sizes) for _ in range(size)]
    subsets = split(len(parts), seed, parts)
    assert tuple(map(len, subsets.values())) == expected


@pytest.mark.parametrize("sizes", [[50, 50], [10] * 3, [95, *[1] * 5]])
def test_too_few_or_too_uneven_parts_are_refused(sizes: list[int]) -> None:
    parts = [str(part) for part, size in enumerate(sizes) for _ in range(size)]
    says = f"{sum(sizes)} images of {len(sizes)} parts, up to {max(sizes)} of one, can't be divided"
    with pytest.raises(ValueError, match=says):
        split(len(parts), 0, parts)


@pytest.mark.parametrize(
    ("total", "digest"),
    [
        (10, "f82348790fd97072"),
        (47, "e382245bdf57b6cd"),
        (99, "fc8ef04d3a0fd20b"),
        (100, "9cb27b2e839643fb"),
        (101, "1ed23e9baafbb294"),
        (399, "fa3a1f43bac53598"),
        (400, "7b3eabc9f3477c74"),
        (468, "411a3561bf055d25"),
        (1203, "88bab4f6fffda311"),
    ],
)
def test_a_seed_gives_the_subsets_it_always_gave(total: int, digest: str) -> None:
    subsets = repr([split(total, seed) for seed in range(5)])
    assert hashlib.sha256(subsets.encode()).hexdigest().startswith(digest)


def test_the_seed_decides() -> None:
    assert split(200, 3) == split(200, 3)
    assert split(200, 3) != split(200, 4)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        split(9, 0)
