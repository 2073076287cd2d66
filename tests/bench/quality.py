"""Which of the method's parts hold on real data: the ablation ladder, beside a training-free yardstick.

    python -m tests.bench.quality DATA [DATA …] [--product NAME …] [--recipe R] [--seeds N] [--out DIR]

Every rung takes the same optimiser steps; nothing is chosen on test images. Results are kept in `--out` and
not repeated as long as program, recipe, seed, teacher and images are the same. DATA are folders with
labelled test images, in any layout `drd-train` reads; of VisA, each `--product` is measured.
"""

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

import training
from training.checkpoint import METRICS, libraries, load_checkpoint
from training.datasets import Dataset, DatasetError, Sample, open_dataset
from training.evaluate import Predict, evaluate, score_images
from training.files import file_digest, write_json
from training.geometry import Geometry
from training.images import read_frames
from training.input_size import shaped, some_sizes
from training.model.heatmap import Heatmap
from training.model.teacher import STRIDES
from training.model.weights import load_teacher
from training.recipe import PRESETS, Recipe, RecipeError, load_recipe
from training.run import TrainOptions, train, usable_device
from training.score_rule import candidates, choose_rule
from training.splits import split

STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("RD", ()),
    ("+ pseudo stream", ("synthesis", "restoration_weight")),
    ("+ MFCF", ("fusion",)),
    ("+ d_pos", ("position_weight",)),
    ("+ L_seg", ("segmentation_weight",)),
    ("+ noise", ("noise",)),
    ("without finest level", ("student_levels",)),
    ("+ rest of the recipe", ("pre_relu", "bounded", "image_term", "image_weight")),
    ("+ refinement", ("rule",)),
    ("+ memory", ("memory",)),
)
"""From RD to the recipe: the fields that each rung takes over from it, on top of the rung below. What
`fast` refines is its score rule; DRD's own refinement has a row of its own."""

Figures = Mapping[str, float | None]
Facts = Mapping[str, object]
"""What a result depends on, as JSON gives it back."""

FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
REREAD = "RD, the recipe's rule"
"""So that what the student gives can be told from what the score rule gives."""
PUBLISHED = "… DRD's refinement"
"""The rung below the recipe's refinement, read by the paper's."""
YARDSTICK = "nearest neighbours"
_BANK, _SEED = 10_000, 0


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# At the start, as the files may be edited while this runs.
_BENCH = file_digest(Path(__file__))
_TRAINING = _digest([file_digest(path) for path in sorted(Path(training.__file__).parent.rglob("*.py"))])


def ladder(recipe: Recipe) -> dict[str, Recipe]:
    """The rungs by name. A rung that changes nothing is left out."""
    rd = {field: getattr(PRESETS["rd"], field) for _, fields in STEPS for field in fields}
    fields, rungs = recipe.model_dump() | rd, dict[str, Recipe]()
    for name, taken in STEPS:
        fields |= {field: getattr(recipe, field) for field in taken}
        rung = Recipe.model_validate(fields)
        if rung not in rungs.values():
            rungs[name] = rung
    return rungs


def read_again(recipe: Recipe) -> Mapping[str, Mapping[str, Recipe]]:
    """By rung, the rows for which its network is read by another rule, too: recipes that have the rule."""
    rungs, again = ladder(recipe), defaultdict[str, dict[str, Recipe]](dict)
    if recipe.rule != rungs["RD"].rule:
        again["RD"][REREAD] = recipe
    if recipe.rule == "chosen":
        below = list(rungs)[list(rungs).index("+ refinement") - 1]
        again[below][PUBLISHED] = rungs[below].model_copy(update={"rule": "drd"})
    return again


def open_all(roots: Sequence[Path], products: Sequence[str]) -> dict[str, Dataset]:
    """The data sets by what the table calls them. Raises DatasetError."""
    found = dict[Path, Dataset]()
    for root in roots:
        several = [open_dataset(root, name) for name in products]
        visa = several and several[0].layout == "VisA"  # elsewhere a folder is one product
        for dataset in several if visa else [open_dataset(root)]:
            if not dataset.test:
                raise DatasetError(f"{root}: no labelled test pictures of {dataset.product}")
            found[root.resolve() / dataset.product] = dataset
    names = [dataset.product for dataset in found.values()]
    return {
        one.product if names.count(one.product) == 1 else f"{one.product} in {one.root}": one
        for one in found.values()
    }


def facts(dataset: Dataset, backbone: str, weights: Path | None) -> Facts:
    """What all results on this data set depend on."""
    return {
        "program": [libraries(), _TRAINING],
        "teacher": hashlib.sha256(save(load_teacher(backbone, weights).state_dict())).hexdigest(),
        "pictures": _digest([list(map(_told, samples)) for samples in (dataset.train, dataset.test)]),
    }


def _told(sample: Sample) -> list[str | None]:
    mask = file_digest(sample.mask) if sample.mask else None
    return [sample.name, sample.kind, file_digest(sample.path), mask]


def folder_of(dataset: Dataset) -> str:
    """The product's name, and what tells it from one of the same name elsewhere."""
    return f"{dataset.product} {_digest(str(dataset.root.resolve()))[:8]}"


def kept(out: Path, known: Facts, make: Callable[[Path], None]) -> Figures:
    """The figures in `out` if they come from just these facts; if not, `make` writes them there anew."""
    path = out / "facts.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    if before != known:
        if before:
            changed = ", ".join(name for name in known if before.get(name) != known[name])
            print(f"{out}: made with another {changed}; done anew", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        for stale in (METRICS, "resume.safetensors"):  # an unfinished run's state, too
            (out / stale).unlink(missing_ok=True)
        write_json(path, known)
    if not (out / METRICS).is_file():
        print(f"\n── {out}", flush=True)
        make(out)
    figures: Figures = json.loads((out / METRICS).read_text())["test"]
    return figures


def train_rung(dataset: Dataset, recipe: Recipe, seed: int, options: argparse.Namespace, out: Path) -> None:
    fields = "".join(f"{field} = {json.dumps(value)}\n" for field, value in recipe.model_dump().items())
    path = out / "recipe.toml"
    path.write_text(fields)
    train(
        TrainOptions(
            dataset.root, dataset.product, out, str(path), seed, options.device, weights=options.weights
        )
    )  # fmt: skip


def reread(dataset: Dataset, recipe: Recipe, trained: Path, device: torch.device, out: Path) -> None:
    """The network in `trained`, its score rule chosen as `recipe` says, by the same `select` images."""
    checkpoint = load_checkpoint(trained)
    drd, geometry = checkpoint.model().to(device), checkpoint.geometry
    select = torch.from_numpy(read_frames([sample.path for sample in checkpoint.samples("select")], geometry))
    choose_rule(drd, recipe, select, checkpoint.seed)
    _measure(dataset, drd.predict, geometry, out)


def _measure(dataset: Dataset, predict: Predict, geometry: Geometry, out: Path) -> None:
    results = score_images(predict, [sample.path for sample in dataset.test], geometry)
    write_json(out / METRICS, {"test": evaluate(dataset.test, results, geometry).quality.as_dict()})


@torch.inference_mode()
def nearest_neighbours(
    dataset: Dataset, recipe: Recipe, weights: Path | None, device: torch.device, out: Path
) -> None:
    """1 − cosine to the nearest of 10,000 feature vectors of the `fit` images (levels 2 and 3, 3×3 means)."""
    recipe = shaped(recipe, some_sizes([sample.path for sample in dataset.train]))
    teacher = load_teacher(recipe.backbone, weights, pre_relu=recipe.pre_relu).to(device)
    geometry = recipe.geometry

    def vectors(frames: NDArray[np.uint8]) -> Tensor:
        _, second, third = (F.avg_pool2d(f, 3, 1, 1) for f in teacher(torch.tensor(frames)))
        both = torch.cat([second, F.interpolate(third, second.shape[-2:], mode="bilinear")], 1)
        return F.normalize(both.permute(0, 2, 3, 1), dim=-1)  # [n, h, w, C]

    fit = [dataset.train[place].path for place in split(len(dataset.train), _SEED)["fit"]]
    batches = [fit[start : start + 8] for start in range(0, len(fit), 8)]
    generator, count = torch.Generator().manual_seed(_SEED), -(-_BANK // len(batches))
    some = []
    for batch in batches:
        every = vectors(read_frames(batch, geometry)).flatten(0, 2)
        some.append(every[torch.randperm(len(every), generator=generator)[:count]])
    bank = torch.cat(some)
    # The product's own last step, so that only the distances differ.
    heatmap = Heatmap(recipe.height, recipe.width, STRIDES[1:2], candidates(recipe)[0]).to(device)

    def predict(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        distance = 1 - (vectors(frames) @ bank.T).amax(-1)
        heat, score = heatmap([distance])
        return heat.numpy(force=True), score.numpy(force=True)

    _measure(dataset, predict, geometry, out)


def measure(
    dataset: Dataset, recipe: Recipe, rungs: Mapping[str, Recipe], options: argparse.Namespace
) -> dict[str, list[Figures]]:
    """The rows of one data set, one result per seed."""
    known, device = facts(dataset, recipe.backbone, options.weights), usable_device(options.device)
    where = options.out / recipe.name / recipe.backbone / folder_of(dataset)
    # What this file computes, by the whole recipe's rule, also depends on these two.
    here = {"bench": _BENCH, "top": recipe.model_dump(mode="json")}
    rows, again = dict[str, list[Figures]](), read_again(recipe)
    for (name, rung), seed in product(rungs.items(), range(options.seeds)):
        out, of_rung = where / f"{name} {seed}", {"recipe": rung.model_dump(mode="json"), "seed": seed}
        learn = partial(train_rung, dataset, rung, seed, options)
        rows.setdefault(name, []).append(kept(out, {**known, **of_rung}, learn))
        for row, ruled in again.get(name, {}).items():
            read = partial(reread, dataset, ruled, out, device)
            rows.setdefault(row, []).append(kept(where / f"{row} {seed}", {**known, **of_rung, **here}, read))
    compare = partial(nearest_neighbours, dataset, recipe, options.weights, device)
    return rows | {YARDSTICK: [kept(where / YARDSTICK, {**known, **here}, compare)]}


def table(results: Mapping[str, Mapping[str, Sequence[Figures]]]) -> str:
    """One block per data set: mean ± half the spread over seeds."""
    lines: list[str] = []
    for data, rows in results.items():
        lines += [f"\n{data}", " " * 24 + "".join(f"{figure:>18}" for figure in FIGURES)]
        for name, runs in rows.items():
            lines.append(f"  {name:<22}" + "".join(f"{_cell(runs, figure):>18}" for figure in FIGURES))
    return "\n".join(lines)


def _cell(runs: Sequence[Figures], figure: str) -> str:
    values = [value for run in runs if (value := run.get(figure)) is not None]
    if not values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA")
    parser.add_argument("--product", nargs="+", default=[], metavar="NAME", help="objects of a VisA root")
    parser.add_argument("--recipe", default="quick", help="the top of the ladder (default: %(default)s)")
    parser.add_argument("--rungs", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("var/bench/quality"))
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, backbone=options.backbone, epochs=options.epochs)
        datasets = open_all(options.data, options.product)
    except (DatasetError, RecipeError) as error:
        parser.error(str(error))
    rungs = ladder(recipe)
    if unknown := [name for name in options.rungs or () if name not in rungs]:
        parser.error(f"--rungs: no {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, rungs))}")
    rungs = {name: rung for name, rung in rungs.items() if not options.rungs or name in options.rungs}
    results = {label: measure(one, recipe, rungs, options) for label, one in datasets.items()}
    epochs = f"{recipe.epochs} epochs, at least {recipe.min_steps} steps"
    print(f"\n{recipe.name}, {recipe.backbone}, {epochs}, {options.seeds} seed(s)")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
