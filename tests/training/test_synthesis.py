"""Pseudo-abnormal frames: seeded, damaged where the mask says and nowhere else."""

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.synthesis import Damage, add_noise, synthesise


def good_frames(count: int = 4, size: tuple[int, int] = (64, 96)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(40, 200, (count, *size, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("damage", ["drd", "mix"])
@given(seed=st.integers(0, 2**62))
@settings(max_examples=30)
def test_only_the_mask_is_damaged(damage: Damage, seed: int) -> None:
    good = good_frames()
    damaged, mask = synthesise(good, damage, range(seed, seed + 4))
    assert damaged.dtype == torch.float32
    assert torch.isfinite(damaged).all()
    assert torch.equal(damaged[~mask], good.float()[~mask])
    assert mask.flatten(1).any(1).all()
    assert not mask.flatten(1).all(1).any()


@pytest.mark.parametrize("damage", ["drd", "mix"])
def test_the_seed_decides(damage: Damage) -> None:
    good = good_frames()
    first, again, other = (synthesise(good, damage, [s, s + 1, s + 2, s + 3])[0] for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_memory_is_that_of_two_copies_in_float() -> None:
    good = good_frames(48)
    tracemalloc.start()
    synthesise(good, "mix", range(48))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * good.nbytes


def test_drd_pastes_patch_plus_a_fifth_of_what_was_there_unclipped() -> None:
    good = torch.full((1, 64, 64, 3), 240, dtype=torch.uint8)
    damaged, mask = synthesise(good, "drd", [5])
    assert torch.all(damaged[mask] == 288)  # 240 + 0.2 · 240


def test_mix_shows_on_a_small_part_on_a_dark_ground() -> None:
    good = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    good[:, 28:36, 28:36] = good_frames(16)[:, :8, :8]
    damaged, mask = synthesise(good, "mix", range(16))
    assert torch.equal((damaged - good).abs().amax(3) >= 4, mask)
    assert mask.flatten(1).any(1).all()


def test_mix_stays_in_range() -> None:
    damaged, _ = synthesise(good_frames(16), "mix", range(16))
    assert damaged.min() >= 0
    assert damaged.max() <= 255


@pytest.mark.parametrize(
    ("size", "limit", "deviation"), [(100, 0.03, 0.1), (0.2, 0.03, 0.006), (0.2, 0, 0.1)]
)
def test_noise_does_not_drown_a_teacher_of_small_features(
    size: float, limit: float, deviation: float
) -> None:
    feature = size * torch.randn(8, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    added = add_noise(feature, 0.1, limit, seed=1) - feature
    assert float(added.std()) == pytest.approx(deviation, rel=0.05)
