"""Which of the method's parts hold on real data: the ablation ladder, beside a training-free yardstick.

    python -m tests.bench.quality DATA [DATA …] [--recipe quick|fast] [--seeds N] [--out DIR]

Every rung takes the same optimiser steps; nothing is chosen on test images. Finished runs are kept in `--out`
and not repeated. DATA are folders with labelled test images, in any layout `drd-train` reads.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.choose import candidates
from training.datasets import Dataset, open_dataset
from training.evaluate import evaluate, read_frames, score_images
from training.model.heatmap import Heatmap
from training.model.weights import load_teacher
from training.recipe import Recipe, load_recipe
from training.run import Request, train, usable_device
from training.shape import shaped
from training.splits import split

RD: Mapping[str, object] = {
    "fusion": "mff", "student_levels": 3, "bounded": False, "synthesis": "none", "image_term": "flat",
    "position_weight": 0.0, "image_weight": 1.0, "restoration_weight": 0.0, "segmentation_weight": 0.0,
    "noise": 0.0, "easy_share": 0.0, "memory": 0, "rule": "mean",
}  # fmt: skip
"""Plain reverse distillation."""

STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("RD", ()),
    ("+ pseudo stream", ("synthesis", "restoration_weight")),
    ("+ MFCF", ("fusion",)),
    ("+ d_pos", ("position_weight",)),
    ("+ L_seg", ("segmentation_weight",)),
    ("+ noise", ("noise",)),
    ("without finest level", ("student_levels",)),
    ("+ rest of the recipe", ("bounded", "image_term", "image_weight", "easy_share")),
    ("+ refinement", ("rule",)),
    ("+ memory", ("memory",)),
)
"""From RD to the recipe: the fields that each rung takes over from it, on top of the rung below."""

FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
YARDSTICK = "nearest neighbours"
_BANK = 10_000


def ladder(recipe: Recipe) -> dict[str, Recipe]:
    """The rungs by name. A rung that changes nothing is left out."""
    fields, rungs = recipe.model_dump() | dict(RD), dict[str, Recipe]()
    for name, taken in STEPS:
        fields |= {field: getattr(recipe, field) for field in taken}
        rung = Recipe.model_validate(fields)
        if rung not in rungs.values():
            rungs[name] = rung
    return rungs


def run_rung(
    name: str, recipe: Recipe, data: Path, seed: int, out: Path, options: argparse.Namespace
) -> None:
    """Trains one rung unless the figures of just this recipe are there."""
    fields = "".join(f"{field} = {json.dumps(value)}\n" for field, value in recipe.model_dump().items())
    path = out / "recipe.toml"
    if (out / "metrics.json").is_file() and path.read_text() == fields:
        return
    print(f"\n── {data.name}, {name}, seed {seed}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)
    path.write_text(fields)
    train(Request(data, data.name, out, str(path), weights=options.weights, seed=seed, device=options.device))


def figures_of(out: Path) -> dict[str, float | None]:
    test: dict[str, float | None] = json.loads((out / "metrics.json").read_text())["test"]
    return test


@torch.inference_mode()
def nearest_neighbours(
    dataset: Dataset, recipe: Recipe, weights: Path | None, seed: int, device: torch.device
) -> dict[str, object]:
    """1 − cosine to the nearest of 10,000 feature vectors of the `fit` images (levels 2 and 3, 3×3 means)."""
    recipe = shaped(recipe, [sample.path for sample in dataset.train])
    teacher, geometry = load_teacher(recipe.backbone, weights).to(device), recipe.geometry

    def vectors(frames: NDArray[np.uint8]) -> Tensor:
        _, second, third = (F.avg_pool2d(f, 3, 1, 1) for f in teacher(torch.tensor(frames)))
        both = torch.cat([second, F.interpolate(third, second.shape[-2:], mode="bilinear")], 1)
        return F.normalize(both.permute(0, 2, 3, 1), dim=-1)  # [n, h, w, C]

    fit = [sample.path for sample in split(dataset.train, seed)["fit"]]
    batches = [fit[start : start + 8] for start in range(0, len(fit), 8)]
    generator, share = torch.Generator().manual_seed(seed), -(-_BANK // len(batches))
    some = []
    for batch in batches:
        every = vectors(read_frames(batch, geometry)).flatten(0, 2)
        some.append(every[torch.randperm(len(every), generator=generator)[:share]])
    bank = torch.cat(some)
    # The product's own last step, so that only the distances differ.
    heatmap = Heatmap(recipe.height, recipe.width, 1, candidates(recipe)[0]).to(device)

    def predict(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        distance = 1 - (vectors(frames) @ bank.T).amax(-1)
        heat, score = heatmap([distance])
        return heat.numpy(force=True), score.numpy(force=True)

    results = score_images(predict, [sample.path for sample in dataset.test], geometry)
    return dict(evaluate(dataset.test, results, geometry).quality.as_dict())


def table(results: Mapping[tuple[str, str], Sequence[Mapping[str, float | None]]]) -> str:
    """One block per data set: mean ± half the spread over seeds."""
    lines: list[str] = []
    for data in dict.fromkeys(data for data, _ in results):
        lines.append(f"\n{data:<24}" + "".join(f"{figure:>18}" for figure in FIGURES))
        for (name, rung), runs in results.items():
            if name == data:
                lines.append(f"  {rung:<22}" + "".join(f"{_cell(runs, figure):>18}" for figure in FIGURES))
    return "\n".join(lines)


def _cell(runs: Sequence[Mapping[str, float | None]], figure: str) -> str:
    values = [value for run in runs if (value := run.get(figure)) is not None]
    if not values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA")
    parser.add_argument("--recipe", default="quick", help="the top of the ladder (default: %(default)s)")
    parser.add_argument("--rungs", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("var/bench/quality"))
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, backbone=options.backbone, epochs=options.epochs)
    rungs = {name: r for name, r in ladder(recipe).items() if not options.rungs or name in options.rungs}
    results: dict[tuple[str, str], list[Mapping[str, float | None]]] = {}
    for data in options.data:
        for name, rung in rungs.items():
            for seed in range(options.seeds):
                out = options.out / recipe.name / recipe.backbone / data.name / f"{name} {seed}"
                run_rung(name, rung, data, seed, out, options)
                results.setdefault((data.name, name), []).append(figures_of(out))
        kept = options.out / recipe.name / recipe.backbone / data.name / "yardstick.json"
        if not kept.is_file():
            device = usable_device(options.device)
            found = nearest_neighbours(open_dataset(data), recipe, options.weights, 0, device)
            kept.write_text(json.dumps(found))
        results[data.name, YARDSTICK] = [json.loads(kept.read_text())]
    print(f"\n{recipe.name}, {recipe.backbone}, {recipe.epochs} epochs, {options.seeds} seed(s)")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
