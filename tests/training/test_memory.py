"""The memory: what is remembered of good parts, and what is usual near it."""

import math

import pytest
import torch
from torch import Tensor

from training.model.memory import Memory


def features(kinds: Tensor) -> list[Tensor]:
    """What a teacher might say of an image whose places `[h, w]` are each of one of three kinds."""
    third = torch.eye(3)[kinds].permute(2, 0, 1)[None]
    second = third.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return [second.repeat_interleave(2, 2).repeat_interleave(2, 3), second, third]


def of(memory: Memory, kinds: Tensor, levels: list[Tensor] | None = None, times: float = 1) -> list[Tensor]:
    """The maps where all features are so many `times` as long."""
    maps: list[Tensor] = memory([times * level for level in features(kinds)], levels or flat())
    return maps


def flat() -> list[Tensor]:
    return [torch.ones(1, 32 // 2**k, 32 // 2**k) for k in range(3)]


def plain(kind: int) -> Tensor:
    return torch.full((8, 8), kind)


def knowing(*kinds: int) -> Memory:
    memory = Memory(len(kinds), (3, 3), levels=3)
    seen = [memory.sample(features(plain(kind)), 1, torch.Generator().manual_seed(0)) for kind in kinds]
    memory.fit_coreset(torch.cat(seen))
    return memory


def test_what_good_parts_show_is_near_and_all_else_is_far() -> None:
    memory = knowing(0, 1)
    half = plain(0)
    half[:, 4:] = 2
    distance = of(memory, half)[3][0]
    assert distance.shape == (8, 8)
    assert (
        0 <= of(memory, plain(0))[3].max() <= math.log(2) / memory.sharpness + 1e-6
    )  # like one of two, wholly
    assert distance[:, :3].max() < 0.05  # the other half makes another picture of it
    assert distance[:, 5:].min() > 0.9


def test_what_is_good_all_over_is_less_so_in_another_image() -> None:
    memory = knowing(0, 1)
    patch = plain(1)
    patch[2:5, 2:5] = 0
    distance = of(memory, patch)[3][0]
    assert distance[3, 3] > 0.05
    assert distance[7, 7] < 0.02


def test_a_rare_look_is_kept() -> None:
    common, rare = torch.eye(3)[:1].expand(999, 3), torch.eye(3)[1:2]
    memory = Memory(2, (1, 1), levels=3)
    memory.fit_coreset(torch.cat([common, rare]))
    assert sorted(memory.vectors.tolist()) == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_fewer_places_than_there_is_room_for_are_all_remembered() -> None:
    memory = Memory(5, (1, 1), levels=3)
    memory.fit_coreset(torch.eye(3))
    assert sorted(memory.vectors.tolist()) == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_the_nearer_good_parts_lie_together_the_less_far_a_vector_counts() -> None:
    for spread in (0.06, 0.6, 0.8):
        angles = spread * torch.arange(5)
        memory = Memory(4, (1, 1), levels=3)
        memory.fit_coreset(torch.stack([angles.cos(), angles.sin(), 0 * angles], 1))
        assert float(memory.sharpness) == pytest.approx(9 / (1 - math.cos(spread)), rel=1e-4)


def test_good_parts_that_are_all_alike_make_nothing_infinite() -> None:
    memory = knowing(0)
    assert of(memory, plain(0))[3].abs().max() < 1e-3
    assert all(torch.isfinite(level).all() for level in of(memory, plain(1)))


def test_a_place_that_is_like_many_is_nearer_than_one_that_is_like_one() -> None:
    common, rare = knowing(0, 1).vectors
    memory = Memory(6, (3, 3), levels=3)
    memory.vectors.copy_(torch.stack([common] * 5 + [rare]))
    memory.sharpness.fill_(40)
    assert (
        of(memory, plain(0))[3].max() < of(memory, plain(1))[3].min() - 0.03 < of(memory, plain(2))[3].min()
    )


def test_the_student_is_read_against_what_is_usual_at_places_that_look_alike() -> None:
    memory = knowing(0, 1)
    hard = [torch.full((1, 32 // 2**k, 32 // 2**k), 0.4) for k in range(3)]
    easy = [level / 4 for level in hard]
    memory.fit_expected([(features(plain(0)), hard), (features(plain(1)), easy)] * 3)
    at_hard, at_easy = of(memory, plain(0), hard)[:3], of(memory, plain(1), easy)[:3]
    for one, other in zip(at_hard, at_easy, strict=True):
        torch.testing.assert_close(one, other, rtol=0.5, atol=0)  # one was four times the other
    damaged = of(memory, plain(1), hard)[:3]
    for usual, unusual in zip(at_hard, damaged, strict=True):
        assert (unusual > 2 * usual).all()


def test_where_features_are_longer_all_distances_are_greater() -> None:
    memory = knowing(0, 1)
    for one, other in zip(of(memory, plain(2)), of(memory, plain(2), times=4), strict=True):
        torch.testing.assert_close(other, 2 * one)  # the root of how many times longer


def test_what_is_usually_long_may_be() -> None:
    memory = knowing(0, 1)
    long = [9 * level for level in features(plain(1))]
    memory.fit_expected([(features(plain(0)), flat()), (long, flat())] * 3)
    short, usual, unusual = of(memory, plain(0)), of(memory, plain(1), times=9), of(memory, plain(0), times=9)
    for one, other, longer in zip(short, usual, unusual, strict=True):
        torch.testing.assert_close(one, other, rtol=0.5, atol=1e-3)
        assert (longer > 2 * one).all()


def test_places_restored_without_fault_make_nothing_infinite() -> None:
    memory = knowing(0, 1)
    none = [torch.zeros(1, 32 // 2**k, 32 // 2**k) for k in range(3)]
    memory.fit_expected([(features(plain(0)), none), (features(plain(1)), none)])
    assert all(torch.isfinite(level).all() for level in of(memory, plain(0)))
    some = [level + 0.01 for level in none]
    memory.fit_expected([(features(plain(0)), none), (features(plain(1)), some)])
    assert max(level.max() for level in of(memory, plain(0), some)[:3]) <= 0.11


def test_a_coreset_takes_the_farthest_of_all_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are looked at in between."""
    vectors = torch.nn.functional.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)))
    kept = [0]
    while len(kept) < 60:
        kept.append(int((vectors @ vectors[kept].T).amax(1).argmin()))
    for shortlist in (1, 7, 100, 1000):
        monkeypatch.setattr("training.model.memory._SHORTLIST", shortlist)
        memory = Memory(60, (2, 3), levels=2)
        memory.fit_coreset(vectors)
        assert torch.equal(memory.vectors, vectors[kept])


def test_a_vector_is_kept_once_though_cosines_are_rounded() -> None:
    """Of as many channels as a 50-layer ResNet's, some of which differ by 2·10⁻⁶ from themselves."""
    draws = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.rand(50, 2560, generator=draws) ** 4)
    memory = Memory(100, (512, 1024), levels=2)
    memory.fit_coreset(torch.cat([vectors, vectors * (1 - 2e-6), vectors]))
    assert int((memory.vectors.abs().sum(1) > 0).sum()) == 50
