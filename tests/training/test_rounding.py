"""The teacher's weights are bfloat16 values, and the teacher is still the one it was."""

import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.trace import trace
from training.geometry import Geometry
from training.model.drd import DRD
from training.model.rounding import round_weights
from training.model.teacher import Teacher
from training.recipe import Recipe

BACKBONES = ["tf_efficientnet_lite0", "resnet18", "regnety_004", "mobilenetv3_large_100"]


def trained(backbone: str) -> Teacher:
    """With statistics and scales that are not those of initialisation."""
    torch.manual_seed(0)
    teacher = Teacher(backbone)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return teacher


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_rounded_teacher_sees_what_it_saw(backbone: str) -> None:
    teacher = trained(backbone)
    frames = torch.randint(0, 256, (1, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = teacher(frames)
    round_weights(teacher)
    with torch.inference_mode():
        for one, other in zip(before, teacher(frames), strict=True):
            assert 0 < (one - other).norm() < 0.03 * one.norm()


def test_what_engines_make_of_the_teacher_are_bfloat16_values() -> None:
    teacher = trained("tf_efficientnet_lite0")
    round_weights(teacher)
    drd = DRD(teacher, Recipe(height=64, width=64)).eval()
    graph = trace(drd, Geometry(64, 64)).graph
    names = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
    tensors = [t for t in graph.initializer if t.name in names and t.name.startswith("drd.teacher.")]
    assert len(tensors) == 2 * 33  # weights and biases
    for tensor in tensors:
        values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        torch.testing.assert_close(values, values.bfloat16().float(), rtol=1e-6, atol=1e-30)


def test_rounding_twice_changes_nothing() -> None:
    teacher = trained("resnet18")
    round_weights(teacher)
    once = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    round_weights(teacher)
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, once[name], rtol=1e-6, atol=1e-30)
