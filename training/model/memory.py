"""The memory bank beside the student: features of good parts (after PatchCore, Roth et al., CVPR 2022).

It gives a distance of its own: a student that has learned to restore good parts also restores some damage,
but what no good part ever showed is far from every stored vector. The descriptor of a position contains, with
a small weight, its whole image: a dark area is normal in a dark image, not in a bright one.

It predicts the student's distances from positions that look alike, and these are divided by the prediction: a
scratchy texture or a bright exposure is hard to restore on good parts, too.

It predicts the norm of the features likewise, and all distances are multiplied by the square root of the norm
over its prediction: cosines ignore norms, though damage also makes them larger.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.heatmap import resized

_CANDIDATES = 80_000
"""Vectors, over all images, from which the coreset is chosen."""
_SHORTLIST = 1000
"""Candidates among which the next vectors of the coreset are looked for at a time: only affects speed."""
_FADED = 9.0
"""`sharpness` times the radius of the coreset: a vector one radius further away weighs e⁻⁹ as much. Tied to
the radius, since how far good parts lie apart depends on teacher and product."""
_MAX_SHARPNESS = 10_000.0
"""Cap for a radius of almost 0, where all candidates were stored or good parts are all but the same: float32
cosines are exact to 10⁻⁶."""
_IMAGE_FRACTION = 0.08
"""Fraction of a descriptor's squared norm that describes the whole image."""
_PRIOR = 0.2
"""Weight of the overall mean in an expected value, as a fraction of a vector's mean number of visits: rarely
visited ones are shrunk towards it."""
_DUPLICATE = 5e-6
"""Largest distance of two descriptors that differ by rounding only: those of 50-layer ResNets, with thousands
of channels, do by 2·10⁻⁶."""
_MIN_EXPECTED = 0.1
"""Least expected value over its mean: dividing by it raises a distance at most tenfold."""


class Memory(nn.Module):
    """`size` stored vectors of good parts, and what to expect near each: the student's distances, of as many
    `levels` as it restores, and the norm of the teacher's features. `channels` are those of the teacher's two
    coarser levels, which the descriptors are made of, finer first."""

    vectors: Tensor
    """`[size, C2 + 2·C3]`: unit descriptors; zeros where there were fewer candidates than room."""
    sharpness: Tensor
    """`[]`: inverse temperature of the softmax and of the soft minimum over stored vectors."""
    expected: Tensor
    """`[levels + 1, size]`: near each vector, the student's expected distances, each over its mean, and last
    the expected norm."""

    def __init__(self, size: int, channels: tuple[int, int], levels: int) -> None:
        super().__init__()
        second, third = channels
        self.register_buffer("vectors", torch.zeros(size, second + third + third))
        self.register_buffer("sharpness", torch.tensor(_MAX_SHARPNESS))
        self.register_buffer("expected", torch.ones(levels + 1, size))

    def forward(self, features: list[Tensor], distances: list[Tensor]) -> list[Tensor]:
        """The teacher's features and the student's distances `[N, h, w]` → each of these divided by its
        expected value, and last the distance to the memory `[N, H/16, W/16]`; all of them times the square
        root of the features' norm over its expected value.

        The distance to the memory is a soft minimum (log-mean-exp) of 1 − cosine over all vectors: many near
        ones make it smaller than one does.
        """
        local, whole, norm = _descriptors(features)
        logits = self._logits(local, whole)
        nearest = logits.amax(-1, keepdim=True)  # subtracted, so that exponentials fit float32
        weights = torch.exp(logits - nearest)
        total = weights.sum(-1, keepdim=True)  # [N, h·w, 1]
        *expected, expected_norm = (weights @ self.expected.T / total).unbind(-1)
        excess = torch.sqrt(norm / expected_norm)  # [N, h·w]
        similarity = ((nearest + torch.log(total / len(self.vectors))) / self.sharpness).squeeze(-1)
        grid = _grid(features)
        divisors = (torch.unflatten(each / excess, 1, grid) for each in expected)
        pairs = zip(distances, divisors, strict=True)
        maps = [each / resized(divisor, each.shape[-2:]) for each, divisor in pairs]
        return [*maps, torch.unflatten((1 - similarity) * excess, 1, grid)]

    def sample(self, features: list[Tensor], images: int, generator: torch.Generator) -> Tensor:
        """Random descriptors of a batch out of `images`, candidates for `fit_coreset`: `[n, C]`."""
        local, whole, _ = _descriptors(features)
        both = torch.cat([local, whole.expand(-1, local.shape[1], -1)], 2)  # [N, h·w, C]
        count = min(both.shape[1], -(-_CANDIDATES // images))
        return torch.cat([each[torch.randperm(len(each), generator=generator)[:count]] for each in both])

    def fit_coreset(self, candidates: Tensor) -> None:
        """Store a greedy coreset of `candidates` `[n, C]`: the next is always the farthest from all stored.

        So rare appearances of good parts are stored as surely as frequent ones, and none twice. The distance
        of the one that would be next, the radius, makes the sharpness.
        """
        kept = [0]
        nearest = 1 - candidates @ candidates[0]
        while len(kept) < len(self.vectors) and nearest.max() > _DUPLICATE:
            added = _farthest(candidates, nearest, len(self.vectors) - len(kept))
            nearest = torch.minimum(nearest, 1 - (candidates @ candidates[added].T).amax(1))
            kept += added
        self.vectors.zero_()[: len(kept)] = candidates[kept]
        self.sharpness.copy_((_FADED / nearest.max().clamp_min(_DUPLICATE)).clamp_max(_MAX_SHARPNESS))

    def fit_expected(self, batches: Iterable[tuple[list[Tensor], list[Tensor]]]) -> None:
        """Fit the expected values to `forward`'s arguments for good parts."""
        visits, total = torch.zeros_like(self.expected[0]), torch.zeros_like(self.expected)
        for features, distances in batches:
            local, whole, norm = _descriptors(features)
            weights = torch.softmax(self._logits(local, whole), -1)  # [N, h·w, size]
            there = [F.adaptive_avg_pool2d(each, _grid(features)).flatten(1) for each in distances]
            visits += weights.sum((0, 1))
            total += torch.einsum("knp,npm->km", torch.stack([*there, norm]), weights)
        mean, prior = (total.sum(1) / visits.sum()).unsqueeze(1), _PRIOR * visits.mean()
        expected = (total + prior * mean) / (visits + prior)
        mean = mean.clamp_min(1e-6)
        self.expected.copy_((expected / mean).clamp_min(_MIN_EXPECTED))
        self.expected[-1] *= mean[-1]  # a norm is not relative

    def _logits(self, local: Tensor, whole: Tensor) -> Tensor:
        """`sharpness` times the cosine of every position to every vector: `[N, H/16·W/16, size]`.

        The vectors come last, to be summed over: engines are slower over channels.
        """
        to_local, to_whole = torch.split(self.vectors.T * self.sharpness, [local.shape[2], whole.shape[2]])
        logits: Tensor = local @ to_local + whole @ to_whole
        return logits


def _farthest(candidates: Tensor, nearest: Tensor, limit: int) -> list[int]:
    """The next vectors of a greedy coreset, one or more: as many as a shortlist of the farthest decides. All
    others are nearer than its last at first, and distances only fall."""
    distances, places = nearest.topk(min(_SHORTLIST, len(nearest)))
    bound, shortlist, found = distances[-1], candidates[places], list[int]()
    while len(found) < limit and distances.max() >= bound and distances.max() > _DUPLICATE:
        farthest = distances.argmax()
        found.append(int(places[farthest]))
        distances = torch.minimum(distances, 1 - shortlist @ shortlist[farthest])
    return found


def _grid(features: list[Tensor]) -> tuple[int, int]:
    """Height and width of the coarsest level, on which descriptors are computed."""
    return features[2].shape[-2], features[2].shape[-1]


def _descriptors(features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each position's 3×3 neighbourhood on the coarsest grid, `[N, H/16·W/16, C2 + C3]`, and of the whole
    image, `[N, 1, C3]`: concatenated, they are unit vectors. And the norm of the features, the geometric mean
    of both levels', `[N, H/16·W/16]`."""
    # Each level is normalised before they are joined, so that neither dominates the other.
    neighbourhoods = (F.avg_pool2d(f, 3, 1, 1, count_include_pad=False) for f in features[1:])
    (second, second_norm), (third, third_norm) = map(_unit_and_norm, neighbourhoods)
    joined, _ = _unit_and_norm(torch.cat([F.avg_pool2d(second, 2), third], 1))
    image, _ = _unit_and_norm(features[2].mean((2, 3), keepdim=True))
    local, whole = joined * math.sqrt(1 - _IMAGE_FRACTION), image * math.sqrt(_IMAGE_FRACTION)
    norm = torch.sqrt(F.avg_pool2d(second_norm, 2) * third_norm)
    return local.flatten(2).transpose(1, 2), whole.flatten(2).transpose(1, 2), norm.flatten(1)


def _unit_and_norm(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors `[N, C, h, w]` as unit vectors, and their norms `[N, 1, h, w]`. `F.normalize` would trace the
    frames' shape into the graph."""
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(1e-12)
    return vectors / norm, norm
