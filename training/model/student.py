"""The student: RD's decoder, the teacher in a mirror, from the embedding back to the levels."""

from itertools import islice

from torch import Tensor, nn

from training.model.blocks import initialise, stage
from training.model.teacher import Mirror

_MIN_WIDTH = 64
"""Inner width of a level whose features take both signs: some such teachers have too few channels to restore
them with (EfficientNet-lite0 from 24). Such a level ends in a 1×1 convolution of its own, so that its inner
width is free; elsewhere it is the features' own."""


class Student(nn.Module):
    """Restores so many `levels` of the teacher's features, from the coarsest, from the embedding of `inner`
    channels."""

    def __init__(self, mirror: Mirror, inner: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        coarsest_first = zip(reversed(mirror.channels), mirror.blocks, strict=True)
        for channels, blocks in islice(coarsest_first, levels):
            outer = max(channels, _MIN_WIDTH) if mirror.signed else channels
            self.stages.append(stage(inner, outer, "up", blocks, mirror.bottleneck_ratio))
            self.heads.append(nn.Conv2d(outer, channels, 1) if mirror.signed else nn.Identity())
            inner = outer
        initialise(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """`[N, C, H/32, W/32]` → restored features, finest first, shaped as the teacher's at these levels."""
        restored: list[Tensor] = []
        x = embedding
        for up, head in zip(self.stages, self.heads, strict=True):
            x = up(x)
            restored.append(head(x))
        return restored[::-1]
