"""Fusion of the teacher's three levels, and the one-class embedding the student starts from.

MFCF, the multi-feature cascade fusion, is DRD's (Ge et al., 2025); MFF is RD's flat fusion, kept as the
baseline it is measured against.
"""

import torch
from torch import Tensor, nn

from training.model.blocks import cbr, initialise, stage
from training.model.teacher import Mirror
from training.recipe import Fusion


class MFCF(nn.Module):
    """Bottom-up cascade: each level is fused with what the finer ones became. The teacher's `channels` are
    C1, C2, C3; the middle stage has `width`·C3 (w·C3) channels."""

    def __init__(self, channels: tuple[int, int, int], width: int) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.first = cbr(c1, c2, stride=2)
        self.second = cbr(2 * c2, width * c3, stride=2)
        self.third = cbr((width + 1) * c3, c3, stride=1)
        self.out_channels = c3

    def forward(self, features: list[Tensor]) -> Tensor:
        f1, f2, f3 = features
        g1 = self.first(f1)  # [N, C2, H/8, W/8]
        g2 = self.second(torch.cat([g1, f2], 1))  # [N, w·C3, H/16, W/16]
        g3: Tensor = self.third(torch.cat([g2, f3], 1))  # [N, C3, H/16, W/16]
        return g3


class MFF(nn.Module):
    """RD's fusion: every level brought to the coarsest by strided convolutions, then concatenated."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.first = nn.Sequential(cbr(c1, c2, stride=2), cbr(c2, c3, stride=2))
        self.second = cbr(c2, c3, stride=2)
        self.out_channels = 3 * c3

    def forward(self, features: list[Tensor]) -> Tensor:
        f1, f2, f3 = features
        return torch.cat([self.first(f1), self.second(f2), f3], 1)  # [N, 3·C3, H/16, W/16]


class Bottleneck(nn.Module):
    """Fusion, then the one-class embedding: residual blocks, the first of stride 2, to 2·C3 channels."""

    def __init__(self, mirror: Mirror, fusion: Fusion, width: int) -> None:
        super().__init__()
        self.fusion = MFCF(mirror.channels, width) if fusion == "mfcf" else MFF(mirror.channels)
        self.out_channels = 2 * mirror.channels[2]
        ratio = mirror.bottleneck_ratio
        self.embedding = stage(self.fusion.out_channels, self.out_channels, "down", 3 if ratio else 2, ratio)
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features at strides 4, 8, 16 → embedding `[N, 2·C3, H/32, W/32]`."""
        out: Tensor = self.embedding(self.fusion(features))
        return out
