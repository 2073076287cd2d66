"""What good parts look like to the teacher: the memory beside the student.

A student that has learned to restore good parts restores some damage, too; what a good part never showed is
far from all that is remembered, however well it could be restored (after PatchCore, Roth et al., CVPR 2022).
And some places are hard to restore on every good part, a scratchy texture or a bright exposure: the student's
distances are read against what they usually are at places that look like this one. A place's look includes,
a little, the picture it lies in: a dark part may be dark all over, a bright one not in places.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CANDIDATES = 20_000
_SHARPNESS = 40.0
"""Of the exponential that says which remembered places one is like."""
_PICTURE = 0.08
"""Share of a look, in squared length, that is its picture's."""
_FEW = 0.2
"""A remembered place seen less than this often, in parts of the mean, is taken to be as usual as all are."""
_SAME = 1e-6
"""Distance of two looks that differ by rounding only."""
_LEAST_USUAL = 0.1
"""A place that was restored without fault makes nothing more than ten times as conspicuous."""


class Memory(nn.Module):
    """`size` remembered places of good parts, and how well a student restores what looks like them.

    Args:
        size: how many are remembered.
        channels: of the teacher's two coarser levels, which are looked at, finer first.
        levels: how many the student restores.
    """

    vectors: Tensor
    usual: Tensor
    """`[levels, size]`: the student's usual distance near each remembered place; the mean is 1."""

    def __init__(self, size: int, channels: tuple[int, int], levels: int) -> None:
        super().__init__()
        second, third = channels
        self.register_buffer("vectors", torch.zeros(size, second + third + third))
        self.register_buffer("usual", torch.ones(levels, size))

    def forward(self, features: list[Tensor], levels: list[Tensor]) -> list[Tensor]:
        """The teacher's features and the student's distances `[N, h, w]` → the latter in parts of what is
        usual there, and the distance to the remembered places `[N, H/16, W/16]`, 0–2.

        That is 1 − cosine, softly the least over all places (log-mean-exp): where many lie equally near, the
        picture is more familiar than where one does.
        """
        alike = torch.exp(self._likeness(features))  # at most e⁴⁰ ≈ 2·10¹⁷: no softmax's care is needed
        company = alike.sum(-1, keepdim=True)  # [N, h·w, 1]
        usual = alike @ self.usual.T / company  # [N, h·w, levels]
        grid = _grid(features)
        usual = torch.unflatten(usual.transpose(1, 2), 2, grid)
        near = torch.unflatten(torch.log(company / len(self.vectors)).squeeze(-1), 1, grid) / _SHARPNESS
        return [
            *(level / _resized(usual[:, k : k + 1], level).squeeze(1) for k, level in enumerate(levels)),
            1 - near,
        ]

    def sample(self, features: list[Tensor], images: int, generator: torch.Generator) -> Tensor:
        """Some places of a batch out of `images`, candidates for `remember`: `[n, C]` on the CPU."""
        local, whole = _looks(features)
        looks = torch.cat([local, whole.expand(-1, local.shape[1], -1)], 2).cpu()  # [N, h·w, C]
        share = min(looks.shape[1], -(-_CANDIDATES // images))
        return torch.cat([look[torch.randperm(len(look), generator=generator)[:share]] for look in looks])

    def remember(self, candidates: Tensor) -> None:
        """Keep a coreset of `candidates` `[n, C]`: the next is always the one that is farthest from all kept.

        Rare looks of good parts are remembered so as surely as frequent ones, and none twice: what room is
        left holds zeros, which nothing is like.
        """
        kept = [0]
        nearest = 1 - candidates @ candidates[0]
        while len(kept) < len(self.vectors) and nearest.max() > _SAME:
            kept.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, 1 - candidates @ candidates[kept[-1]])
        self.vectors.zero_()[: len(kept)] = candidates[kept]

    def expect(self, batches: Iterable[tuple[list[Tensor], list[Tensor]]]) -> None:
        """Learn what is usual near each remembered place, from `forward`'s arguments for good parts."""
        seen, total = torch.zeros_like(self.usual[0]), torch.zeros_like(self.usual)
        for features, levels in batches:
            shares = torch.softmax(self._likeness(features), -1)  # [N, h·w, size]
            there = torch.stack(
                [F.adaptive_avg_pool2d(level, _grid(features)).flatten(1) for level in levels]
            )
            seen += shares.sum((0, 1))
            total += torch.einsum("knp,npm->km", there, shares)
        mean, few = (total.sum(1) / seen.sum()).unsqueeze(1), _FEW * seen.mean()
        usual = (total + few * mean) / (seen + few)
        self.usual.copy_((usual / mean.clamp_min(1e-6)).clamp_min(_LEAST_USUAL))

    def _likeness(self, features: list[Tensor]) -> Tensor:
        """Sharpness times the cosine of every place to every remembered one: `[N, H/16·W/16, size]`.

        The remembered ones come last, to be summed over: engines are slower over channels.
        """
        local, whole = _looks(features)
        to_local, to_whole = torch.split(self.vectors.T, [local.shape[2], whole.shape[2]])
        likeness: Tensor = (local @ to_local + whole @ to_whole) * _SHARPNESS
        return likeness


def _grid(features: list[Tensor]) -> tuple[int, int]:
    """Height and width of the coarsest level, which places are counted on."""
    return features[2].shape[-2], features[2].shape[-1]


def _resized(one: Tensor, level: Tensor) -> Tensor:
    return F.interpolate(one, level.shape[-2:], mode="bilinear", align_corners=False)


def _looks(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What surrounds each place of the coarsest grid, `[N, H/16·W/16, C2 + C3]`, and what the picture is like
    that they all lie in, `[N, 1, C3]`: together unit vectors."""
    # Each level a unit vector before they are joined: neither drowns the other.
    second, third = (_unit(F.avg_pool2d(f, 3, 1, 1, count_include_pad=False)) for f in features[1:])
    local = _unit(torch.cat([F.avg_pool2d(second, 2), third], 1)) * math.sqrt(1 - _PICTURE)
    whole = _unit(features[2].mean((2, 3), keepdim=True)) * math.sqrt(_PICTURE)
    return local.flatten(2).transpose(1, 2), whole.flatten(2).transpose(1, 2)


def _unit(vectors: Tensor) -> Tensor:
    """`F.normalize` without its `expand`, which would ask the frames for their shape in the graph."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length.clamp_min(1e-12)
