"""The whole network, from frame to score: what training evaluates, export traces and the service serves."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.model.blocks import bound
from training.model.fusion import Bottleneck
from training.model.heatmap import Heatmap, ScoreRule, distances
from training.model.memory import Memory
from training.model.student import Student
from training.model.teacher import STRIDES, Teacher
from training.recipe import Recipe


class DRD(nn.Module):
    """Teacher, fusion, student and heatmap, after Ge et al. (Neurocomputing 2025); a memory beside them."""

    def __init__(self, teacher: Teacher, recipe: Recipe, rule: ScoreRule | None = None) -> None:
        super().__init__()
        mirror = teacher.mirror()
        self.teacher = teacher
        self.bottleneck = Bottleneck(mirror, recipe.fusion, recipe.fusion_width)
        levels = recipe.student_levels
        self.student = Student(mirror, self.bottleneck.out_channels, levels)
        if recipe.bounded and mirror.signed:
            bound(self.bottleneck)
            bound(self.student)
        self.memory = Memory(recipe.memory, mirror.channels[1:], levels) if recipe.memory else None
        strides = STRIDES[-levels:] + STRIDES[-1:] * (self.memory is not None)
        self.heatmap = Heatmap(recipe.height, recipe.width, strides, rule)

    def restore(self, features: list[Tensor]) -> list[Tensor]:
        """The student's reconstruction of the teacher's features, at the levels that it restores."""
        restored: list[Tensor] = self.student(self.bottleneck(features))
        return restored

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        """`distances`; with a memory, each over its expected value, and the memory's own map last."""
        plain = distances(teacher, student)
        if self.memory is None:
            return plain
        maps: list[Tensor] = self.memory(teacher, plain)
        return maps

    def features(self, frames: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's features of frames `[N, H, W, 3]`, and the student's reconstruction of them."""
        teacher: list[Tensor] = self.teacher(frames)
        return teacher, self.restore(teacher)

    def maps(self, frames: Tensor) -> list[Tensor]:
        """`compare` for frames."""
        return self.compare(*self.features(frames))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames uint8 RGB `[N, H, W, 3]` → heatmap float32 `[N, H, W]`, score float32 `[N]`."""
        result: tuple[Tensor, Tensor] = self.heatmap(self.maps(frames))
        return result

    def predict(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`forward` for NumPy callers, without gradients."""
        with torch.inference_mode():
            heatmap, score = self(torch.tensor(frames))
        return heatmap.numpy(force=True), score.numpy(force=True)
