"""The losses against values worked out by hand."""

import math

import pytest
import torch

from training.loss import (
    distillation_loss,
    image_distance,
    position_distance,
    restoration_loss,
    segmentation_loss,
    segmentation_target,
)
from training.model.teacher import Teacher
from training.recipe import Recipe

# Two positions, two channels: [N=1, C=2, h=1, w=2]. Channel vectors (1,0) and (0,1) in the teacher;
# (1,1) and (0,1) in the student.
TEACHER = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
STUDENT = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate(fields)


def test_position_distance_is_the_mean_over_positions() -> None:
    # cos = 1/√2 at the first position, 1 at the second
    assert position_distance(TEACHER, STUDENT).item() == pytest.approx((1 - 1 / math.sqrt(2)) / 2, abs=1e-6)


def test_channel_distance_is_the_mean_over_channels() -> None:
    # channel 0: (1,0)·(1,0) → cos 1; channel 1: (0,1)·(1,1) → cos 1/√2
    expected = (1 - 1 / math.sqrt(2)) / 2
    assert image_distance(TEACHER, STUDENT, "channel").item() == pytest.approx(expected, abs=1e-6)


def test_channels_are_not_taken_for_positions() -> None:
    # Two channels at three positions: cos 0 for the first channel's map and 1 for the second's.
    teacher = torch.tensor([[[[1.0, 0.0, 0.0]], [[1.0, 2.0, 3.0]]]])
    student = torch.tensor([[[[0.0, 1.0, 0.0]], [[1.0, 2.0, 3.0]]]])
    assert image_distance(teacher, student, "channel").item() == pytest.approx(0.5, abs=1e-6)


def test_flat_distance_is_one_cosine_over_everything() -> None:
    # dot = 2, norms √2 and √3
    assert image_distance(TEACHER, STUDENT, "flat").item() == pytest.approx(1 - 2 / math.sqrt(6), abs=1e-6)


def test_distillation_weighs_and_sums_levels() -> None:
    fields = recipe(position_weight=2.0, image_weight=3.0, image_term="flat")
    one = 2 * (1 - 1 / math.sqrt(2)) / 2 + 3 * (1 - 2 / math.sqrt(6))
    loss = distillation_loss(fields, [TEACHER, TEACHER], [STUDENT, STUDENT])
    assert loss.item() == pytest.approx(2 * one, abs=1e-6)


def test_restoration_pulls_towards_the_clean_features() -> None:
    assert restoration_loss([TEACHER], [TEACHER], "flat").item() == pytest.approx(0, abs=1e-6)
    loss = restoration_loss([TEACHER, TEACHER], [STUDENT, STUDENT], "flat")
    assert loss.item() == pytest.approx(2 * (1 - 2 / math.sqrt(6)), abs=1e-6)


def test_segmentation_compares_the_mean_map_with_the_target() -> None:
    target = torch.tensor([[[1.0, 0.0]]])
    first = 1 - 1 / math.sqrt(2)
    loss = segmentation_loss([TEACHER, TEACHER], [STUDENT, TEACHER], target)
    assert loss.item() == pytest.approx((abs(first / 2 - 1) + 0) / 2, abs=1e-6)


def test_segmentation_upsamples_the_maps_of_each_image() -> None:
    """Of the two images and three levels, only the first image's first level has a distance: 0, then 1."""
    pseudo = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(2, 1, 1, 2)
    restored = pseudo.clone()
    restored[0, :, 0, 1] = torch.tensor([0.0, 1.0])
    target = torch.tensor([0.2, 0.4]).view(2, 1, 1).repeat(1, 2, 4)
    first = [0, 1 / 12, 1 / 4, 1 / 3]  # a third of 0, 1/4, 3/4 and 1
    expected = (sum(abs(value - 0.2) for value in first) + 4 * 0.4) / 8
    loss = segmentation_loss([pseudo] * 3, [restored, pseudo, pseudo], target)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_grey_pastes_have_a_target_under_mask_but_hardly_one_under_rgb_cos() -> None:
    normal = torch.full((1, 64, 64, 3), 150.0)
    pseudo = normal.clone()
    pseudo[0, 0, 0] = 220
    normal, pseudo = map(Teacher("resnet18").normalised, (normal, pseudo))
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 0, 0] = True
    by_mask = segmentation_target(recipe(segmentation_target="mask"), normal, pseudo, mask)
    by_colour = segmentation_target(recipe(segmentation_target="rgb_cos"), normal, pseudo, mask)
    assert by_mask[0, 0, 0] == 1
    assert by_mask.sum() == 1
    assert by_colour.abs().max() < 0.05


def test_features_in_bfloat16_are_compared_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(2, 8, 4, 4, generator=generator).bfloat16()]
    student = [teacher[0] + 0.01 * torch.randn(2, 8, 4, 4, generator=generator)]
    exact = distillation_loss(recipe(), [teacher[0].double()], [student[0].double()])
    assert distillation_loss(recipe(), teacher, student).item() == pytest.approx(exact.item(), rel=0.01)
