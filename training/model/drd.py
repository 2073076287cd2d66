"""The whole network, from frame to score: what training evaluates, export traces and the service serves."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.model.fusion import Bottleneck
from training.model.heatmap import Heatmap, ScoreRule, distances
from training.model.student import Student
from training.model.teacher import Teacher
from training.recipe import Recipe


class DRD(nn.Module):
    """Teacher, fusion, student and heatmap, after Ge et al. (Neurocomputing 2025)."""

    def __init__(self, teacher: Teacher, recipe: Recipe, rule: ScoreRule | None = None) -> None:
        super().__init__()
        mirror = teacher.mirror()
        self.teacher = teacher
        self.bottleneck = Bottleneck(mirror, recipe.fusion, recipe.fusion_width)
        self.student = Student(mirror, self.bottleneck.out_channels, recipe.min_width)
        self.heatmap = Heatmap(recipe.height, recipe.width, rule)

    def restore(self, features: list[Tensor]) -> list[Tensor]:
        """What the student makes of the teacher's features, shaped as they are."""
        restored: list[Tensor] = self.student(self.bottleneck(features))
        return restored

    def level_maps(self, frames: Tensor) -> list[Tensor]:
        """Distance maps `[N, H/s_k, W/s_k]` of frames `[N, H, W, 3]`, finest first."""
        features = self.teacher(frames)
        return distances(features, self.restore(features))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames uint8 RGB `[N, H, W, 3]` → heatmap float32 `[N, H, W]`, score float32 `[N]`."""
        result: tuple[Tensor, Tensor] = self.heatmap(self.level_maps(frames))
        return result

    def predict(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`forward` for NumPy callers, without gradients."""
        with torch.inference_mode():
            heatmap, score = self(torch.tensor(frames))
        return heatmap.numpy(), score.numpy()
