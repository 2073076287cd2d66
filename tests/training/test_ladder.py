"""The ablation ladder goes from RD to the recipe, one part at a time."""

import pytest

from tests.bench.quality import STEPS, ladder
from training.recipe import PRESETS, Recipe


@pytest.mark.parametrize("name", ["quick", "fast", "paper"])
def test_the_first_rung_is_rd_and_the_last_the_recipe(name: str) -> None:
    rungs = list(ladder(PRESETS[name]).values())
    assert rungs[-1] == PRESETS[name]
    assert (rungs[0].fusion, rungs[0].synthesis, rungs[0].rule) == ("mff", "none", "mean")


def test_every_rung_takes_the_same_steps() -> None:
    rungs = ladder(PRESETS["fast"]).values()
    assert {(r.epochs, r.batch, r.learning_rate, r.schedule) for r in rungs} == {
        (PRESETS["fast"].epochs, 8, 5e-3, "cosine")
    }


@pytest.mark.parametrize("name", ["quick", "fast", "paper"])
def test_rungs_differ_from_the_one_below_in_what_their_name_says(name: str) -> None:
    fields = dict(STEPS)
    rungs = ladder(PRESETS[name])
    for (_, below), (step, rung) in zip(rungs.items(), list(rungs.items())[1:], strict=False):
        changed = {field for field in Recipe.model_fields if getattr(below, field) != getattr(rung, field)}
        assert changed <= set(fields[step])
        assert changed
