"""Residual blocks shared by the embedding (going down) and the student (coming up).

Both follow ResNet (He et al., 2016); the up-block is RD's (Deng & Li, CVPR 2022): a 2×2 transposed
convolution of stride 2 at the head of the block and on its shortcut.
"""

from typing import Literal

from torch import Tensor, nn

Resample = Literal["down", "up", "none"]


def cbr(inner: int, outer: int, stride: int) -> nn.Sequential:
    """3×3 convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def _resampling(inner: int, outer: int, resample: Resample, kernel: int) -> nn.Module:
    if resample == "up":
        return nn.ConvTranspose2d(inner, outer, 2, stride=2, bias=False)
    return nn.Conv2d(inner, outer, kernel, 2 if resample == "down" else 1, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block: basic (two 3×3 convolutions) or, with a `bottleneck_ratio`, 1×1 – 3×3 – 1×1."""

    def __init__(self, inner: int, outer: int, resample: Resample, bottleneck_ratio: float | None) -> None:
        super().__init__()
        if bottleneck_ratio is None:
            self.body = nn.Sequential(
                _resampling(inner, outer, resample, 3), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
                nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer),
            )  # fmt: skip
        else:
            middle = round(outer * bottleneck_ratio)
            self.body = nn.Sequential(
                nn.Conv2d(inner, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
                _resampling(middle, middle, resample, 3), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
                nn.Conv2d(middle, outer, 1, bias=False), nn.BatchNorm2d(outer),
            )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if resample != "none" or inner != outer:
            self.shortcut = nn.Sequential(_resampling(inner, outer, resample, 1), nn.BatchNorm2d(outer))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def stage(
    inner: int, outer: int, resample: Resample, blocks: int, bottleneck_ratio: float | None
) -> nn.Sequential:
    """`blocks` residual blocks, the first of which changes resolution and width."""
    rest = [Block(outer, outer, "none", bottleneck_ratio) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inner, outer, resample, bottleneck_ratio), *rest)


def initialise(module: nn.Module) -> None:
    """Kaiming normal for every convolution, as ResNet and RD start."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def bound(network: nn.Module) -> None:
    """Replace ReLU by ReLU6, as in MobileNets: activations far outside those of good parts are cut off, and
    what good parts need fits int8."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.ReLU6(inplace=True))
