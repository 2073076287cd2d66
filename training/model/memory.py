"""What good parts look like to the teacher: the memory beside the student.

A student that has learned to restore good parts restores some damage, too; what a good part never showed is
far from all that is remembered, however well it could be restored. After PatchCore (Roth et al., CVPR 2022).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CANDIDATES = 20_000


class Memory(nn.Module):
    """Distances to the nearest of `size` remembered places of good parts.

    Args:
        size: how many are remembered.
        channels: of the teacher's two coarser levels, which are looked at.
    """

    vectors: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, channels))

    def forward(self, features: list[Tensor]) -> Tensor:
        """1 − cosine to the nearest remembered vector: the teacher's features → `[N, H/16, W/16]`, 0–2."""
        likeness = F.conv2d(_looks(features), self.vectors[:, :, None, None])  # [N, size, H/16, W/16]
        return 1 - likeness.amax(1)

    def sample(self, features: list[Tensor], images: int, generator: torch.Generator) -> Tensor:
        """Some places of a batch out of `images`, candidates for `remember`: `[n, C]` on the CPU."""
        places = _looks(features).permute(0, 2, 3, 1).flatten(1, 2).cpu()  # [N, h·w, C]
        share = min(places.shape[1], -(-_CANDIDATES // images))
        return torch.cat([place[torch.randperm(len(place), generator=generator)[:share]] for place in places])

    def remember(self, candidates: Tensor) -> None:
        """Keep a coreset of `candidates` `[n, C]`: the next is always the one that is farthest from all kept.

        Rare looks of good parts are remembered so as surely as frequent ones.
        """
        kept = [0]
        nearest = 1 - candidates @ candidates[0]
        for _ in range(len(self.vectors) - 1):
            kept.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, 1 - candidates @ candidates[kept[-1]])
        self.vectors.copy_(candidates[kept])


def _looks(features: list[Tensor]) -> Tensor:
    """What surrounds each place of the coarsest grid: unit vectors `[N, C2 + C3, H/16, W/16]`."""
    # Each level a unit vector before they are joined: neither drowns the other.
    second, third = (_unit(F.avg_pool2d(f, 3, 1, 1, count_include_pad=False)) for f in features[1:])
    return _unit(torch.cat([F.avg_pool2d(second, 2), third], 1))


def _unit(vectors: Tensor) -> Tensor:
    """`F.normalize` without its `expand`, which would ask the frames for their shape in the graph."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length.clamp_min(1e-12)
