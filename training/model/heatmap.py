"""Distance maps, one per level and the memory's → one heatmap and one score. Part of the exported graph.

The rule's discrete choices are fixed when a product is trained (`ScoreRule`, kept in the checkpoint);
its fitted numbers are buffers.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.teacher import STRIDES

_POOLED = 4
"""Pixels of a side of the squares whose means `top_fraction` takes: fewer to sort."""
_QUANTILE = 0.995
_MIN_RANGE = 1e-3
"""Lower limit of `scale`, so that rounding is not amplified on very uniform products."""


class ScoreRule(BaseModel):
    """How a product's maps become its heatmap and its score."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    normalise: bool = False
    """Divide each map by its usual range: from the mean to the 99.5 % quantile over held-out good frames.
    Nothing is subtracted: 0 stays the minimum, so that nothing counts outside a region of interest."""
    sigma: Annotated[float, Field(gt=0)] = 4.0
    """Gaussian smoothing of the heatmap, in pixels of the network's input."""
    top_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the pixels in the region of interest; the mean of as many hottest ones is the score. 0: the
    maximum."""
    refinement: bool = False
    """DRD's refinement, as published: times 1 + the peak of the level whose map varies least."""


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 − cosine over channels, at each position: `[N, C, h, w]` twice → `[N, h, w]`, 0–2."""
    return 1 - F.cosine_similarity(teacher, student, dim=1)


def restored_levels(teacher: list[Tensor], student: list[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Each level that the student restores, the coarser two or all three: the teacher's, in the student's
    precision, since torch's cosine normalises each side in its own, and as restored."""
    return ((t.type_as(s), s) for t, s in zip(teacher[-len(student) :], student, strict=True))


def distances(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """`distance` of each restored level, `[N, H/s_k, W/s_k]`, finest first."""
    return [distance(t, s) for t, s in restored_levels(teacher, student)]


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, by pixel centres: `[N, h, w]` → `[N, *size]`."""
    return F.interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)


class Heatmap(nn.Module):
    """Upsamples, smooths, fuses and scores the maps that `DRD.maps` gives. They have the given `strides` to
    the network's input, `height` × `width`, and all count alike.

    Upsampling and smoothing are linear, and the same for all rows, as for all columns: one matrix from either
    side does both.
    """

    scale: Tensor
    """`[maps]`: usual range of each map; 1 until fitted."""
    roi: Tensor
    """`[H, W]`: 1 where a defect counts, 0 elsewhere."""
    rows: Tensor
    """`[H, Σ H/s_k]`: the rows of each map → the heatmap's."""
    columns: Tensor
    """`[W, Σ W/s_k]`: likewise."""

    def __init__(
        self, height: int, width: int, strides: Sequence[int] = STRIDES, rule: ScoreRule | None = None
    ) -> None:
        super().__init__()
        self.size, self.strides = (height, width), tuple(strides)
        self.register_buffer("scale", torch.ones(len(strides)))
        self.register_buffer("roi", torch.ones(height, width), persistent=False)  # set at export only
        self.roi_share = 1.0
        """Fraction of the pixels that lie in the region of interest."""
        self.set_rule(rule or ScoreRule())

    def set_roi(self, roi: Tensor) -> None:
        """Count defects only where `roi` `[H, W]` is 1. Call before calibration, since scores change."""
        self.roi.copy_(roi)
        self.roi_share = float(self.roi.mean())

    def set_rule(self, rule: ScoreRule) -> None:
        """Score by `rule`. The fitted `scale` stays: it does not depend on the rule."""
        self.rule = rule
        rows, columns = (self._matrix(size).to(self.roi.device) for size in self.size)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def fit(self, normal: list[Tensor]) -> None:
        """Fit the normalisation to `DRD.maps` of n held-out good frames: of each map `[n, h_k, w_k]`."""
        for k, one in enumerate(normal):
            # torch.quantile takes 2^24 values at most.
            reach = float(np.quantile(one.cpu().numpy(), _QUANTILE)) - float(one.mean())
            self.scale[k] = max(reach, _MIN_RANGE)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`DRD.maps` → heatmap `[N, H, W]` and score `[N]`."""
        ends = accumulate(one.shape[1] for one in maps)  # not torch.split: tracing it prints warnings
        matrices = [self.rows[:, end - one.shape[1] : end] for end, one in zip(ends, maps, strict=True)]
        ranges = self.scale if self.rule.normalise else torch.ones_like(self.scale)
        tall = [rows @ (one / reach) for rows, one, reach in zip(matrices, maps, ranges, strict=True)]
        heatmap = torch.cat(tall, 2) @ self.columns.T / len(maps) * self.roi  # the product sums over the maps
        return heatmap, self._score(heatmap, maps)

    def _score(self, heatmap: Tensor, maps: list[Tensor]) -> Tensor:
        if self.rule.top_fraction > 0:
            pooled = F.avg_pool2d(heatmap.unsqueeze(1), _POOLED).flatten(1)
            hottest = max(1, round(self.rule.top_fraction * self.roi_share * pooled.shape[1]))
            score = pooled.topk(hottest).values.mean(1)
        else:
            score = heatmap.flatten(1).amax(1)
        if self.rule.refinement:
            inside = [one * self._roi_at(one.shape[-2:]) for one in maps]
            peaks = torch.stack([one.flatten(1).amax(1) for one in inside], 1)  # [N, maps]
            chosen = self.least_varying(inside).unsqueeze(1)
            score = score * (1 + peaks.gather(1, chosen).squeeze(1))
        return score

    def least_varying(self, maps: list[Tensor]) -> Tensor:
        """Which map, upsampled to the input's size, has the least variance: `[N]`, int64."""
        return torch.stack([resized(one, self.size).flatten(1).var(1) for one in maps], 1).argmin(1)

    def _roi_at(self, size: Sequence[int]) -> Tensor:
        """The region of interest on a level's grid, `[h, w]`."""
        return F.interpolate(self.roi[None, None], size, mode="nearest")[0, 0]

    def _matrix(self, size: int) -> Tensor:
        """`[size, Σ size/s_k]`: upsamples a line of each map to `size` pixels linearly, and smooths it. The
        ends are padded by replication, so that values near the border are not lowered."""
        kernel = _gaussian(self.rule.sigma)
        reach = kernel.numel() // 2
        points = [torch.eye(size // stride).unsqueeze(1) for stride in self.strides]
        lines = torch.cat([F.interpolate(p, size, mode="linear", align_corners=False) for p in points])
        smooth = F.conv1d(F.pad(lines, (reach, reach), mode="replicate"), kernel.view(1, 1, -1))
        return smooth.squeeze(1).T.contiguous()


def _gaussian(sigma: float) -> Tensor:
    reach = max(1, math.ceil(4 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()
