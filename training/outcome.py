"""What a training run achieved: measured, drawn, written and told."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from training.checkpoint import METRICS, REPORT, Checkpoint
from training.datasets import Sample
from training.evaluate import BATCH, evaluate, score_images
from training.files import write_json
from training.geometry import Geometry
from training.messages import suspects
from training.model.drd import DRD
from training.report import Example, Figures, write_report
from training.score_rule import Candidate
from training.splits import Split
from training.subsets import Subset


def measure(
    drd: DRD,
    geometry: Geometry,
    losses: list[float],
    subsets: Mapping[Split, Subset],
    samples: tuple[Sample, ...],
) -> Figures:
    """What training achieved, on the good images of `subsets` and the test set's `samples`, of which there
    may be none."""
    test = None
    if samples:
        scored = score_images(drd.predict, [sample.path for sample in samples], geometry, "measuring")
        test = evaluate(samples, scored, geometry)
    return Figures(losses, _ranked(drd, subsets["fit"]), _ranked(drd, subsets["select"]), test)


def _ranked(drd: DRD, subset: Subset) -> list[Example]:
    """The images with their raw scores, the highest first."""
    frames = torch.split(subset.frames, BATCH)  # in memory still
    batches = tqdm(frames, "measuring", unit="batch", leave=False, disable=None)
    scores = np.concatenate([drd.predict(batch.numpy())[1] for batch in batches]).tolist()
    paths = [sample.path for sample in subset.samples]
    return sorted(zip(paths, scores, strict=True), key=lambda example: -example[1])


def tell(checkpoint: Checkpoint, drd: DRD, figures: Figures, candidates: Sequence[Candidate]) -> None:
    """Draw, write and print what training achieved; `candidates` begin with the chosen one."""
    out, recipe = checkpoint.directory, checkpoint.recipe
    write_report(out / REPORT, f"{checkpoint.product}: {recipe.name}", figures, drd, recipe.geometry)
    tried = [{"auroc_select": candidate.auroc, **candidate.rule.model_dump()} for candidate in candidates]
    quality = figures.test.quality.as_dict() if figures.test else None
    write_json(out / METRICS, {"test": quality, "epoch_losses": figures.losses, "rules_tried": tried})
    for name, value in (quality or {}).items():
        if value is not None:
            print(f"  {name:<14} {value:.4f}" if isinstance(value, float) else f"  {name:<14} {value}")
    print(f"highest of those learned from: {suspects(figures.learned)}")
    print(f"checkpoint in {out}; look at {out / REPORT}")
