"""The score rule of a product: chosen and fitted on its `select` images and pseudo-abnormal versions of
them, which training has not seen. Never on `calibrate`, never on a test image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from training.model.drd import DRD
from training.model.heatmap import ScoreRule
from training.randomness import Purpose, seeds
from training.recipe import Recipe
from training.synthesis import Damage, synthesise

_VERSIONS = 4
"""Pseudo-abnormal versions of each select image."""

_MARGIN = 0.02
"""AUROC by which a less preferred rule must be better. Pseudo-abnormal damage is more local than most real
defects and always favours the maximum, which a single speck on a good part can decide."""

_ENOUGH = 10
"""Select images from which the comparison counts: with fewer, which rule separates best is chance, by more
than the margin, and the preferred one is kept."""

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule and how well it separates select images from their damaged versions (image AUROC, 0–1)."""

    rule: ScoreRule
    auroc: float


def candidates(recipe: Recipe) -> list[ScoreRule]:
    """Rules to choose from, the preferred first."""
    if recipe.rule == "mean":
        return [ScoreRule()]
    if recipe.rule == "drd":
        return [ScoreRule(refinement=True)]
    return [
        ScoreRule(normalise=True, sigma=sigma, top_fraction=top)
        for top in (0.003, 0.01, 0.0)
        for sigma in (4.0, 8.0)
    ]


def choose_rule(drd: DRD, recipe: Recipe, select: Tensor, seed: int) -> list[Candidate]:
    """Fit and compare the recipe's candidates on the frames `select`, uint8 RGB `[N, H, W, 3]`: the chosen
    one, with which it leaves `drd`, then the others in order of preference."""
    batch = min(_BATCH, recipe.batch)  # a recipe for large frames has few in a batch
    normal = _maps(drd, select, batch)
    count = _VERSIONS * len(select)
    of_versions = np.reshape(seeds(seed, Purpose.RULE, count=count), (_VERSIONS, len(select))).tolist()
    # One version of all at a time: as floats they take four times the memory of the frames.
    walk = tqdm(of_versions, "score rule", unit="version", leave=False, disable=None)
    versions = [_maps(drd, synthesise(select, damage_of(recipe), each)[0], batch) for each in walk]
    damaged = [torch.cat(one) for one in zip(*versions, strict=True)]
    truth = np.repeat([False, True], [len(select), count])
    drd.heatmap.fit(normal)  # for all rules
    tried = []
    for rule in candidates(recipe):
        drd.heatmap.set_rule(rule)
        scores = np.concatenate([_scores(drd, normal), _scores(drd, damaged)])
        tried.append(Candidate(rule, float(roc_auc_score(truth, scores))))
    best = max(candidate.auroc for candidate in tried)
    margin = _MARGIN if len(select) >= _ENOUGH else math.inf
    chosen = next(candidate for candidate in tried if candidate.auroc > best - margin)
    drd.heatmap.set_rule(chosen.rule)
    return [chosen, *(candidate for candidate in tried if candidate is not chosen)]


def level_changes(drd: DRD, select: Tensor) -> int:
    """Number of `select` images on which bfloat16 networks make DRD's refinement pick another level."""
    device, changes = drd.heatmap.scale.device.type, 0
    for frames in tqdm(torch.split(select, _BATCH), "precision", unit="batch", leave=False, disable=None):
        chosen = []
        for rounded in (False, True):
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=rounded):
                teacher, student = ([level.float() for level in side] for side in drd.features(frames))
            chosen.append(drd.heatmap.least_varying(drd.compare(teacher, student)))
        changes += int((chosen[0] != chosen[1]).sum())
    return changes


def damage_of(recipe: Recipe) -> Damage:
    """The damage to judge by; a recipe without the second stream is judged by `mix`."""
    return "mix" if recipe.synthesis == "none" else recipe.synthesis


def _maps(drd: DRD, frames: Tensor, batch: int) -> list[Tensor]:
    with torch.inference_mode():
        chunks = [drd.maps(each) for each in torch.split(frames, batch)]
    return [torch.cat(one) for one in zip(*chunks, strict=True)]


def _scores(drd: DRD, maps: list[Tensor]) -> NDArray[np.float32]:
    batches = zip(*(torch.split(one, _BATCH) for one in maps), strict=True)
    with torch.inference_mode():
        return torch.cat([drd.heatmap(list(batch))[1] for batch in batches]).numpy(force=True)
