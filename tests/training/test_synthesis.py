"""Pseudo-abnormal frames: seeded, damaged where the mask says and nowhere else."""

import tracemalloc
from collections import Counter

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


def test_drd_s_squares_have_the_paper_s_sides() -> None:
    """As published for 256 px; a quarter of that here."""
    _, masks = synthesise(good_frames(1000, (64, 64)), "drd", range(1000))
    sides = masks.sum((1, 2)).sqrt()
    for share, least, greatest in ((0.2, 150, 200), (0.3, 64, 100), (0.5, 10, 32)):
        these = sides[(sides >= least / 4 - 0.5) & (sides <= greatest / 4 + 0.5)]
        assert len(these) / 1000 == pytest.approx(share, abs=0.04)
        assert float(these.max() - these.min()) >= 0.9 * (greatest - least) / 4


def test_mix_pastes_squares_perlin_noise_and_scars_of_any_opacity() -> None:
    """Where it pastes white on black, the mask is the whole shape, whose grey level is the opacity."""
    pair = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 64, 64, 3)
    opacities, perlin, kinds = list[float](), list[float](), Counter[str]()
    for seed in range(500):
        (black, _), (mask, _) = synthesise(pair, "mix", [seed, seed])
        pasted = black[mask].unique()
        if len(pasted) != 1:  # noise, or nothing that shows
            continue
        opacities.append(float(pasted) / 255)
        rows, columns = (int(mask.any(1 - axis).sum()) for axis in (0, 1))
        area = int(mask.sum())
        kind = "square" if area == rows * columns == rows**2 else "scar" if area < 90 else "perlin"
        kinds[kind] += 1
        if kind == "perlin":
            perlin.append(area / mask.numel())
    assert min(opacities) == pytest.approx(0.2, abs=0.02)
    assert max(opacities) == pytest.approx(1, abs=0.02)
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert shares == pytest.approx({"square": 0.25, "perlin": 0.5, "scar": 0.25}, abs=0.08)
    assert sum(perlin) / len(perlin) < 0.15  # of the frame: noise above 0.5, which goes from -1 to 1


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
