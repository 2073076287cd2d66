"""Distance maps, one per level and the memory's → one heatmap and one score. Part of the exported graph.

The rule's discrete choices are fixed when a product is trained (`ScoreRule`, kept in the checkpoint);
its fitted numbers are buffers.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

_FINEST_STRIDE = 4
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
    """DRD's refinement: times 1 + the peak of the level whose map varies least. As published but for the
    Gaussian, which is applied before the upsampling here and not after it: a maximum differs by 1 %."""


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 − cosine over channels, at each place: `[N, C, h, w]` twice → `[N, h, w]`, 0–2."""
    return 1 - F.cosine_similarity(teacher, student, dim=1)


def distances(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """`distance` of each level."""
    return [distance(t, s) for t, s in zip(teacher, student, strict=True)]


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, by pixel centres: `[N, h, w]` → `[N, *size]`."""
    return F.interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)


class Heatmap(nn.Module):
    """Fuses, smooths and scores.

    The maps are fused on the teacher's finest grid (stride 4). The smoothing there and the upsampling after
    it are linear, and the same for all rows, as for all columns: one matrix from either side does both.

    Args:
        height, width: the network's input size.
        maps: how many `DRD.maps` gives; all count alike.
    """

    scale: Tensor
    """`[maps]`: usual range of each map; 1 until fitted."""
    roi: Tensor
    """`[H, W]`: 1 where a defect counts, 0 elsewhere."""
    rows: Tensor
    """`[H, H/4]`: the grid's rows → the heatmap's."""
    columns: Tensor
    """`[W, W/4]`: likewise."""

    def __init__(self, height: int, width: int, maps: int = 3, rule: ScoreRule | None = None) -> None:
        super().__init__()
        self.size = (height, width)
        self.grid = (height // _FINEST_STRIDE, width // _FINEST_STRIDE)
        self.register_buffer("scale", torch.ones(maps))
        self.register_buffer("roi", torch.ones(height, width), persistent=False)  # set at export only
        self.roi_share = 1.0
        """Fraction of the pixels that lie in the region of interest."""
        self.set_rule(rule or ScoreRule())

    def set_roi(self, roi: Tensor) -> None:
        """From now on only a defect where `roi` `[H, W]` is 1 counts. Before calibration: scores change."""
        self.roi.copy_(roi)
        self.roi_share = float(self.roi.mean())

    def set_rule(self, rule: ScoreRule) -> None:
        """From now on scores follow `rule`. The fitted `scale` stays: it does not depend on the rule."""
        self.rule = rule
        rows, columns = (_smooth_and_upsample(size, rule.sigma).to(self.roi.device) for size in self.size)
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
        on_grid = (one if one.shape[-2:] == self.grid else resized(one, self.grid) for one in maps)
        grids = torch.stack(list(on_grid), 1)  # [N, maps, H/4, W/4]
        scaled = grids / self.scale.view(1, -1, 1, 1) if self.rule.normalise else grids
        heatmap = self.rows @ scaled.mean(1) @ self.columns.T * self.roi
        return heatmap, self._score(heatmap, maps)

    def _score(self, heatmap: Tensor, maps: list[Tensor]) -> Tensor:
        if self.rule.top_fraction > 0:
            pooled = F.avg_pool2d(heatmap.unsqueeze(1), _FINEST_STRIDE).flatten(1)
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


def _smooth_and_upsample(size: int, sigma: float) -> Tensor:
    """Matrix `[size, size/4]` that smooths a line of the grid with a Gaussian and upsamples it linearly to
    `size` pixels. The ends are padded by replication, so that values near the border are not lowered."""
    kernel = _gaussian(sigma / _FINEST_STRIDE)
    reach = kernel.numel() // 2
    points = torch.eye(size // _FINEST_STRIDE).unsqueeze(1)
    smooth = F.conv1d(F.pad(points, (reach, reach), mode="replicate"), kernel.view(1, 1, -1))
    return F.interpolate(smooth, size, mode="linear", align_corners=False).squeeze(1).T.contiguous()


def _gaussian(sigma: float) -> Tensor:
    reach = max(1, math.ceil(4 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()
