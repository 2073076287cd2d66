"""The end of training: statistics that weigh every image alike, and no result that is not a number."""

import numpy as np
import pytest
import torch
from torch import nn

from training.loop import Trainer, TrainingError
from training.model.drd import DRD
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
    first = next(m for m in nine.learned.modules() if isinstance(m, nn.BatchNorm2d))
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


def test_whole_batches_are_those_of_an_epoch() -> None:
    sixteen = trainer(16)
    assert [len(batch) for batch in sixteen.all_frames("statistics")] == [8, 8]


def test_losses_compare_in_float32_what_was_restored_in_bfloat16() -> None:
    eight = trainer(8)
    with torch.autocast("cpu", torch.bfloat16):
        features = eight.drd.teacher(eight.frames)
        assert eight.drd.restore(features)[0].dtype == torch.bfloat16
        restored = eight.restore_in_float32(features)
        assert {d.dtype for d in eight.drd.distances(features, restored)} == {torch.float32}


def test_what_the_last_step_broke_is_noticed() -> None:
    broken = trainer(8)
    with torch.no_grad():
        next(broken.drd.student.parameters())[0] = float("nan")
    with pytest.raises(TrainingError, match="smaller learning_rate"):
        broken.conclude()
