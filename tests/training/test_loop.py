"""The end of training: statistics that weigh every image alike, and no result that is not a number."""

import numpy as np
import pytest
import torch
from torch import nn

from training.loop import Trainer, TrainingError
from training.model.drd import DRD
from training.model.heatmap import distances
from training.model.teacher import Teacher
from training.recipe import Recipe

CPU = torch.device("cpu")


def trainer(images: int, side: int = 64, batch: int = 8, levels: range = range(1)) -> Trainer:
    """Of images of noise; from one to the next it gets as much brighter as `levels` says."""
    torch.manual_seed(0)
    recipe = Recipe(backbone="test_resnet", height=side, width=side, batch=batch, memory=20, bfloat16=False)
    noise = np.random.default_rng(0).integers(0, 100, (images, side, side, 3), np.uint8)
    bright = np.resize(np.array(levels, np.uint8), images)
    frames = torch.from_numpy(noise + bright[:, None, None, None])
    return Trainer(DRD(Teacher("test_resnet"), recipe), recipe, frames, 0, CPU)


def test_the_last_image_weighs_no_more_than_the_others() -> None:
    nine = trainer(9, levels=range(0, 144, 16))
    nine.conclude()
    first = next(m for m in nine.trainable.modules() if isinstance(m, nn.BatchNorm2d))
    inputs = list[torch.Tensor]()
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        nine.drd.restore(nine.drd.teacher(nine.frames))
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, inputs[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_last_image_alone_can_be_small() -> None:
    nine = trainer(9, side=32)
    nine.conclude()
    assert np.isfinite(nine.drd.predict(nine.frames.numpy())[1]).all()


class Noting(Trainer):
    """Notes which images each step is given, and does not train."""

    noted: list[tuple[int, list[int]]]

    def step(self, indices: torch.Tensor, step: int) -> float:
        self.noted.append((step, indices.tolist()))
        return 0.0


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    eight = trainer(8, side=32, batch=2)
    noting = Noting(eight.drd, eight.recipe, eight.frames, 0, CPU)
    noting.noted, noting.last_epoch = [], 2
    assert list(noting.epochs(lambda _: None)) == [1, 2]
    assert [step for step, _ in noting.noted] == list(range(8))
    assert {len(indices) for _, indices in noting.noted} == {2}
    orders = [[i for _, indices in noting.noted[4 * epoch :][:4] for i in indices] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] != orders[1]


def test_whole_batches_are_those_of_an_epoch() -> None:
    sixteen = trainer(16)
    assert [len(batch) for batch in sixteen.all_frames("statistics")] == [8, 8]


def test_losses_compare_in_float32_what_was_restored_in_bfloat16() -> None:
    eight = trainer(8)
    with torch.autocast("cpu", torch.bfloat16):
        features = eight.drd.teacher(eight.frames)
        assert eight.drd.restore(features)[0].dtype == torch.bfloat16
        restored = eight.restore_in_float32(features)
        assert {d.dtype for d in distances(features, restored)} == {torch.float32}


def test_only_the_damaged_frames_features_get_noise_before_the_bottleneck() -> None:
    given = list[list[torch.Tensor]]()
    for noise in (0.0, 0.1):
        eight = trainer(8, side=32)
        eight.recipe = eight.recipe.model_copy(update={"noise": noise})
        eight.drd.bottleneck.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        eight.step(torch.arange(8), 0)
    for without, with_noise in zip(*given, strict=True):
        added = with_noise - without
        assert torch.equal(added[:8], torch.zeros_like(added[:8]))
        limit = 0.03 * float(without[8:].square().mean().sqrt())
        assert float(added[8:].std()) == pytest.approx(min(0.1, limit), rel=0.1)


@pytest.mark.parametrize(("schedule", "fractions"), [("cosine", (1, 0.55, 0.1)), ("constant", (1, 1, 1))])
def test_the_learning_rate_falls_to_a_tenth_if_the_recipe_says_so(
    schedule: str, fractions: tuple[float, ...]
) -> None:
    eight = trainer(8, side=32)
    eight.recipe = eight.recipe.model_copy(update={"schedule": schedule})
    steps = eight.last_epoch * eight.batches
    for step, fraction in zip((0, steps // 2, steps - 1), fractions, strict=True):
        eight.step(torch.arange(8), step)
        rate = eight.optimiser.param_groups[0]["lr"]
        assert rate == pytest.approx(fraction * eight.recipe.learning_rate, rel=1e-3)


def test_what_the_last_step_broke_is_noticed() -> None:
    broken = trainer(8)
    with torch.no_grad():
        next(broken.drd.student.parameters())[0] = float("nan")
    with pytest.raises(TrainingError, match="smaller learning_rate"):
        broken.conclude()
