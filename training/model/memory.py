"""The memory beside the student: feature vectors of good parts (after PatchCore, Roth et al., CVPR 2022).

It gives two things. A distance of its own: a student that has learned to restore good parts also restores
some damage, but what no good part ever showed is far from every stored vector. And the student's expected
distance at each place: a scratchy texture or a bright exposure is hard to restore on good parts, too, so the
student's distances are divided by what they usually are at places that look alike. The descriptor of a place
contains, with a small weight, its whole image: a dark area is normal in a dark image, not in a bright one.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CANDIDATES = 20_000
"""Vectors, over all images, from which the coreset is chosen."""
_SHARPNESS = 40.0
"""Inverse temperature of the softmax and of the soft minimum over stored vectors."""
_IMAGE_SHARE = 0.08
"""Share of a descriptor, in squared length, that describes the whole image."""
_PRIOR = 0.2
"""Weight of the overall mean in an expected distance, as a fraction of a vector's mean number of visits:
rarely visited ones are shrunk towards it."""
_DUPLICATE = 1e-6
"""Distance of two descriptors that differ by rounding only."""
_LEAST_EXPECTED = 0.1
"""Lower bound of an expected distance, whose mean is 1: dividing by it raises a distance at most tenfold."""


class Memory(nn.Module):
    """`size` stored vectors of good parts, and the student's expected distance near each.

    Args:
        size: how many are stored.
        channels: of the teacher's two coarser levels, which the descriptors are made of, finer first.
        levels: how many the student restores.
    """

    vectors: Tensor
    """`[size, C2 + 2·C3]`: unit descriptors; zeros where there were fewer candidates than room."""
    expected: Tensor
    """`[levels, size]`: the student's expected distance near each vector, over its mean."""

    def __init__(self, size: int, channels: tuple[int, int], levels: int) -> None:
        super().__init__()
        second, third = channels
        self.register_buffer("vectors", torch.zeros(size, second + third + third))
        self.register_buffer("expected", torch.ones(levels, size))

    def forward(self, features: list[Tensor], levels: list[Tensor]) -> list[Tensor]:
        """The teacher's features and the student's distances `[N, h, w]` → each of these divided by its
        expected value, and last the distance to the memory `[N, H/16, W/16]`, 0–2.

        The latter is a soft minimum (log-mean-exp) of 1 − cosine over all vectors: many near ones make it
        smaller than one does.
        """
        similarity = torch.exp(self._logits(features))  # at most e⁴⁰ ≈ 2·10¹⁷: fits float32 without a softmax
        total = similarity.sum(-1, keepdim=True)  # [N, h·w, 1]
        expected = similarity @ self.expected.T / total  # [N, h·w, levels]
        grid = _grid(features)
        expected = torch.unflatten(expected.transpose(1, 2), 2, grid)
        nearness = torch.unflatten(torch.log(total / len(self.vectors)).squeeze(-1), 1, grid) / _SHARPNESS
        return [
            *(level / _resized(expected[:, k : k + 1], level).squeeze(1) for k, level in enumerate(levels)),
            1 - nearness,
        ]

    def sample(self, features: list[Tensor], images: int, generator: torch.Generator) -> Tensor:
        """Random descriptors of a batch out of `images`, candidates for `fit_coreset`: `[n, C]` on the
        CPU."""
        local, whole = _descriptors(features)
        both = torch.cat([local, whole.expand(-1, local.shape[1], -1)], 2).cpu()  # [N, h·w, C]
        share = min(both.shape[1], -(-_CANDIDATES // images))
        return torch.cat([each[torch.randperm(len(each), generator=generator)[:share]] for each in both])

    def fit_coreset(self, candidates: Tensor) -> None:
        """Store a greedy coreset of `candidates` `[n, C]`: the next is always the farthest from all stored.

        So rare appearances of good parts are stored as surely as frequent ones, and none twice.
        """
        kept = [0]
        nearest = 1 - candidates @ candidates[0]
        while len(kept) < len(self.vectors) and nearest.max() > _DUPLICATE:
            kept.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, 1 - candidates @ candidates[kept[-1]])
        self.vectors.zero_()[: len(kept)] = candidates[kept]

    def fit_expected(self, batches: Iterable[tuple[list[Tensor], list[Tensor]]]) -> None:
        """Fit the expected distances to `forward`'s arguments for good parts."""
        visits, total = torch.zeros_like(self.expected[0]), torch.zeros_like(self.expected)
        for features, levels in batches:
            shares = torch.softmax(self._logits(features), -1)  # [N, h·w, size]
            there = torch.stack(
                [F.adaptive_avg_pool2d(level, _grid(features)).flatten(1) for level in levels]
            )
            visits += shares.sum((0, 1))
            total += torch.einsum("knp,npm->km", there, shares)
        mean, prior = (total.sum(1) / visits.sum()).unsqueeze(1), _PRIOR * visits.mean()
        expected = (total + prior * mean) / (visits + prior)
        self.expected.copy_((expected / mean.clamp_min(1e-6)).clamp_min(_LEAST_EXPECTED))

    def _logits(self, features: list[Tensor]) -> Tensor:
        """Sharpness times the cosine of every place to every vector: `[N, H/16·W/16, size]`.

        The vectors come last, to be summed over: engines are slower over channels.
        """
        local, whole = _descriptors(features)
        to_local, to_whole = torch.split(self.vectors.T, [local.shape[2], whole.shape[2]])
        logits: Tensor = (local @ to_local + whole @ to_whole) * _SHARPNESS
        return logits


def _grid(features: list[Tensor]) -> tuple[int, int]:
    """Height and width of the coarsest level, on which descriptors are computed."""
    return features[2].shape[-2], features[2].shape[-1]


def _resized(one: Tensor, level: Tensor) -> Tensor:
    return F.interpolate(one, level.shape[-2:], mode="bilinear", align_corners=False)


def _descriptors(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each place's 3×3 surroundings on the coarsest grid, `[N, H/16·W/16, C2 + C3]`, and of the whole
    image, `[N, 1, C3]`; concatenated, they are unit vectors."""
    # Each level is normalised before they are joined, so that neither dominates the other.
    second, third = (_unit(F.avg_pool2d(f, 3, 1, 1, count_include_pad=False)) for f in features[1:])
    local = _unit(torch.cat([F.avg_pool2d(second, 2), third], 1)) * math.sqrt(1 - _IMAGE_SHARE)
    whole = _unit(features[2].mean((2, 3), keepdim=True)) * math.sqrt(_IMAGE_SHARE)
    return local.flatten(2).transpose(1, 2), whole.flatten(2).transpose(1, 2)


def _unit(vectors: Tensor) -> Tensor:
    """`F.normalize` without its `expand`, which would trace the frames' shape into the graph."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length.clamp_min(1e-12)
