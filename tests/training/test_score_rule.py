"""The score rule: compared on the select images, unless these are too few."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from training.model.drd import DRD
from training.model.teacher import Teacher
from training.recipe import Recipe
from training.score_rule import Candidate, candidates, choose_rule, damage_of, level_changes

RECIPE = Recipe(backbone="test_resnet", height=64, width=64, memory=0)


def choice(images: int, seed: int) -> list[Candidate]:
    """By an untrained student, to which the rules differ by chance only. It is left with the chosen one."""
    torch.manual_seed(0)
    drd = DRD(Teacher("test_resnet"), RECIPE).eval()
    select = np.random.default_rng(seed).integers(60, 180, (images, 64, 64, 3), np.uint8)
    tried = choose_rule(drd, RECIPE, torch.from_numpy(select), seed)
    assert drd.heatmap.rule == tried[0].rule
    return tried


def test_where_bfloat16_moves_the_paper_s_level_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    drd = DRD(Teacher("test_resnet"), RECIPE.model_copy(update={"rule": "drd"})).eval()
    select = torch.from_numpy(np.random.default_rng(0).integers(60, 180, (20, 64, 64, 3), np.uint8))
    for told, moved in ((torch.zeros_like, 0), (torch.clone, 20)):  # no peak is the same in bfloat16

        def peaks(maps: list[Tensor], told: Callable[[Tensor], Tensor] = told) -> Tensor:
            return told(maps[0].flatten(1).amax(1))

        monkeypatch.setattr(drd.heatmap, "least_varying", peaks)
        assert level_changes(drd, select) == moved


@pytest.mark.parametrize(("synthesis", "damage"), [("drd", "drd"), ("mix", "mix"), ("none", "mix")])
def test_rules_are_judged_by_the_damage_that_was_trained_with(synthesis: str, damage: str) -> None:
    assert damage_of(RECIPE.model_copy(update={"synthesis": synthesis})) == damage


@pytest.mark.parametrize(("rule", "refined"), [("mean", False), ("drd", True)])
def test_the_paper_s_maps_are_fused_as_they_are(rule: str, refined: bool) -> None:
    (only,) = candidates(RECIPE.model_copy(update={"rule": rule}))
    assert (only.normalise, only.top_fraction, only.refinement) == (False, 0, refined)


def test_few_select_images_do_not_move_the_rule() -> None:
    chosen, *others = choice(9, seed=0)
    assert chosen.rule == candidates(RECIPE)[0]
    assert max(other.auroc for other in others) > chosen.auroc + 0.02


@pytest.mark.parametrize("seed", [19, 22])
def test_enough_select_images_do(seed: int) -> None:
    chosen, *others = choice(10, seed)
    assert chosen.rule != candidates(RECIPE)[0]
    assert all(other.auroc < chosen.auroc + 0.02 for other in others)
