"""Recipes: presets, files, and errors that name the field."""

from pathlib import Path

import pytest

from tests.bench.quality import STEPS
from training.model.heatmap import ScoreRule
from training.recipe import PRESETS, Recipe, RecipeError, load_recipe
from training.score_rule import candidates


def test_the_presets_are_the_four_of_the_documentation() -> None:
    assert set(PRESETS) == {"quick", "fast", "rd", "paper"}
    assert all(name == recipe.name for name, recipe in PRESETS.items())


def test_paper_is_the_paper() -> None:
    paper = PRESETS["paper"]
    assert paper.backbone == "wide_resnet50_2.tv_in1k"  # torchvision's first weights, not timm's own
    assert (paper.synthesis, paper.image_term) == ("drd", "channel")
    assert (paper.learning_rate, paper.betas, paper.weight_decay) == (5e-3, (0.5, 0.999), 1e-5)
    assert (paper.batch, paper.epochs, paper.schedule, paper.fusion_width) == (4, 200, "constant", 2)
    assert (paper.noise, paper.noise_limit) == (0.1, 0)
    assert candidates(paper) == [ScoreRule(refinement=True, sigma=4)]


def test_rd_is_the_baseline_at_the_same_number_of_steps_as_fast() -> None:
    rd, fast = PRESETS["rd"], PRESETS["fast"]
    assert (rd.synthesis, rd.fusion, rd.image_term) == ("none", "mff", "flat")
    assert (rd.position_weight, rd.restoration_weight, rd.segmentation_weight, rd.noise) == (0, 0, 0, 0)
    assert (rd.epochs, rd.min_steps, rd.batch) == (fast.epochs, fast.min_steps, fast.batch)
    assert candidates(rd) == [ScoreRule(sigma=4)]
    same = Recipe.model_fields.keys() - {"name", *(field for _, fields in STEPS for field in fields)}
    assert rd.model_dump(include=same) == fast.model_dump(include=same)


def test_a_file_overrides_its_base_and_options_override_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "quick"\nbatch = 4\nheight = 128\n')
    recipe = load_recipe(str(path), height=160, backbone=None)
    assert (recipe.name, recipe.batch, recipe.height) == ("mine", 4, 160)
    assert recipe.epochs == PRESETS["quick"].epochs


def test_few_images_are_seen_more_often_unless_epochs_are_named(tmp_path: Path) -> None:
    path, steps = tmp_path / "mine.toml", tmp_path / "steps.toml"
    path.write_text("epochs = 7\n")
    steps.write_text("min_steps = 60\n")
    assert [PRESETS["fast"].epochs_of(batches) for batches in (5, 100)] == [100, 12]
    assert [load_recipe("fast", epochs=3).epochs_of(batches) for batches in (5, 100)] == [3, 3]
    assert load_recipe(str(path)).epochs_of(1) == 7
    assert [load_recipe(str(steps), epochs=named).epochs_of(5) for named in (None, 1)] == [12, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", ": epoch: "),
        ('synthesis = "holes"', ": synthesis: "),
        ("height = 100", "multiples of 32"),
        ('rule = "mean"', "memory needs the rule 'chosen'"),
        ("epochs = ", "mine.toml"),
        (f"epochs = {'[' * 20_000}", "mine.toml"),
        (f"epochs = {'9' * 5_000}", "mine.toml"),
        ('preset = "slow"', "there are quick, fast, rd, paper"),
        ("learning_rate = inf", ": learning_rate: "),
        ("learning_rate = 1e300", ": learning_rate: "),
        ("weight_decay = 1e300", ": weight_decay: "),
        ("noise = nan", ": noise: "),
        ("betas = [1.5, 2]", r": betas\.0: "),
        ("betas = [0.5]", r": betas\.1: "),
        ("memory = true", ": memory: "),
        ("memory = 100000000000", ": memory: "),
        ("fusion_width = 5", ": fusion_width: "),
        ('batch = "4"', ": batch: "),
        ('synthesis = "none"\nposition_weight = 0\nimage_weight = 0', "no loss is left"),
        ("width = 8192", "no side may be longer than 4096"),
        ("batch = 1\nheight = 32\nwidth = 32", "too little to normalise a batch by"),
    ],
)
def test_mistakes_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("batch = 4\nbetas = [0.9, 0.99]\nnoise = 0\n", encoding="utf-8-sig")
    recipe = load_recipe(str(path))
    assert (recipe.batch, recipe.betas, recipe.noise) == (4, (0.9, 0.99), 0)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe  # as the checkpoint keeps it


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml"):
        load_recipe("nowhere.toml")


def test_a_name_that_is_not_utf8_can_be_stored(tmp_path: Path) -> None:
    """Or the checkpoint could not be written, after all the training."""
    path = tmp_path / "caf\udce9.toml"
    path.write_text("epochs = 1\n")
    recipe = load_recipe(str(path))
    assert recipe.name == "caf?"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
