"""The teacher's weights, rounded to bfloat16 before training.

Half-precision engines round the teacher's weights, and the first filters, which measure small differences of
large values, are sensitive to that. Rounded before training, the teacher is as good, and the same in
training, in float32 and in half precision.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.model.teacher import Teacher


@torch.no_grad()
def round_weights(teacher: Teacher) -> None:
    """Round the teacher's convolutions, and the batch normalisation after them, to bfloat16 values.

    Engines fold the normalisation into the convolution, so it is folded here and the result rounded: what is
    left of the normalisation adds a bias. Normalisation that follows no convolution stays as it is.
    """
    for conv, norm in _normalised(teacher):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            bias += conv.bias * scale
            conv.bias.zero_()
        conv.weight.mul_(scale.view(-1, 1, 1, 1))
        norm.bias.copy_(_rounded(bias))
        norm.weight.fill_(1)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    for module in teacher.modules():
        if isinstance(module, nn.Conv2d):
            for values in module.parameters():
                values.copy_(_rounded(values))


def _normalised(teacher: Teacher) -> list[tuple[Any, Any]]:
    """Each convolution whose output goes straight into a batch normalisation, with that normalisation."""
    made, pairs = dict[Tensor, nn.Module](), list[tuple[Any, Any]]()

    def note_convolution(conv: nn.Module, _: tuple[Tensor], result: Tensor) -> None:
        made[result] = conv

    def note_normalisation(norm: nn.Module, given: tuple[Tensor]) -> None:
        if given[0] in made:
            pairs.append((made[given[0]], norm))

    hooks = [m.register_forward_hook(note_convolution) for m in teacher.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(note_normalisation)
        for m in teacher.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    teacher(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return pairs


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(values.dtype)
