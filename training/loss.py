"""DRD's losses. Notation of the paper: T the teacher's features, S the student's; a prime marks the
pseudo-abnormal stream. Everything the teacher gives is a constant. Lists of features are
`[N, C_k, h_k, w_k]`, finest level first; a loss is a scalar of at least 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.model.heatmap import distance, distances, resized, restored_levels
from training.recipe import ImageTerm, Recipe


def position_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """d_pos: mean over batch and positions of 1 − cos over channels; `[N, C, h, w]` twice → scalar."""
    return distance(teacher, student).mean()


def image_distance(teacher: Tensor, student: Tensor, term: ImageTerm) -> Tensor:
    """d_img, mean over the batch. `channel`: 1 − cos of each channel's flattened map, mean over channels;
    `flat`: one 1 − cos over the flattened C·h·w map (RD's)."""
    start = 2 if term == "channel" else 1
    return (1 - F.cosine_similarity(teacher.flatten(start), student.flatten(start), dim=-1)).mean()


def distillation_loss(recipe: Recipe, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """L_KD: the normal stream, Σ_k a_pos·d_pos(T_k, S_k) + a_img·d_img(T_k, S_k)."""
    total = teacher[0].new_zeros(())
    for t, s in restored_levels(teacher, student):
        if recipe.position_weight:
            total = total + recipe.position_weight * position_distance(t, s)
        if recipe.image_weight:
            total = total + recipe.image_weight * image_distance(t, s, recipe.image_term)
    return total


def restoration_loss(teacher: list[Tensor], restored: list[Tensor], term: ImageTerm) -> Tensor:
    """L_rec: the pseudo stream towards the **clean** image's features, Σ_k d_img(T_k, S'_k)."""
    terms = [image_distance(t, s, term) for t, s in restored_levels(teacher, restored)]
    return torch.stack(terms).sum()


def segmentation_loss(pseudo: list[Tensor], restored: list[Tensor], target: Tensor) -> Tensor:
    """L_seg: L1 between the mean map of the pseudo stream, upsampled, and `target` `[N, H, W]`, 0–1."""
    maps = [resized(level, target.shape[-2:]) for level in distances(pseudo, restored)]
    return (torch.stack(maps).mean(0) - target).abs().mean()


def segmentation_target(recipe: Recipe, normal: Tensor, pseudo: Tensor, mask: Tensor) -> Tensor:
    """What L_seg aims at: where the images differ, `mask` bool `[N, H, W]`, or the paper's 1 − cos of the two
    colours in `normal` and `pseudo`, RGB `[N, 3, H, W]`, normalised as the teacher's input.

    The latter is near zero inside most pastes of grey images, and would teach "nothing here".
    """
    if recipe.segmentation_target == "mask":
        return mask.float()
    return distance(pseudo, normal)
