"""One training run from folder to checkpoint directory: what `drd-train` does."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import METRICS, REPORT, Checkpoint, libraries, records, save_checkpoint, write_json
from training.choose import Candidate, choose_rule, jumps, preset
from training.datasets import Sample, open_dataset
from training.evaluate import BATCH, evaluate, score_images
from training.files import file_digest
from training.loop import Trainer, TrainingError
from training.model.drd import DRD
from training.model.weights import load_teacher
from training.preview import write_preview
from training.recipe import Recipe, load_recipe
from training.report import write_report
from training.resume import ResumeFile
from training.shape import shaped, some_sizes, stretching
from training.shares import Share, divide, read_good, read_test
from training.version import program_version

_FOURTEEN_BITS = 64
"""White of a 14-bit picture that was stored in 16 bits as it is, on the 0–255 scale."""


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `drd-train`."""

    data: Path
    product: str
    out: Path
    recipe: str = "fast"
    backbone: str | None = None
    weights: Path | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    size: Sequence[int] | None = None
    preview: Path | None = None
    skip_unreadable: bool = False
    same_part: re.Pattern[str] | None = None

    def resolved_recipe(self) -> Recipe:
        height, width = self.size or (None, None)
        return load_recipe(
            self.recipe, backbone=self.backbone, epochs=self.epochs, height=height, width=width
        )


def train(request: Request) -> Checkpoint:
    """Run it, printing progress. Raises TrainingError and the errors of data set, recipe and teacher."""
    recipe = request.resolved_recipe()
    device = usable_device(request.device)
    dataset = open_dataset(request.data, request.product)
    print(dataset)
    sizes = some_sizes([sample.path for sample in dataset.train])
    recipe = shaped(recipe, sizes)
    if note := stretching(sizes, recipe):
        print(note)
    drd = _network(recipe, request)  # before all pictures are read: a wrong name or file shows at once
    good, digests = read_good(dataset.train, recipe.geometry, request.skip_unreadable)
    shares = divide(good, request.seed, request.same_part)
    # Before training, not after hours of it.
    test = read_test(dataset.test, recipe.geometry, request.skip_unreadable, digests)
    fit = shares["fit"].pixels
    if fit.max() <= _FOURTEEN_BITS:
        print(
            f"WARNING: no pixel is brighter than {int(fit.max())} of 255, so few grey levels are left. Are "
            "these 10-, 12- or 14-bit pictures in 16-bit files? Then scale them to 16 bits, here and at the "
            "camera"
        )
    if request.preview is not None:
        write_preview(request.preview, fit, preset(recipe), request.seed)
    state = _resume_file(recipe, request, fit)
    trainer = Trainer(drd, recipe, fit, request.seed, device)
    epochs, batches = trainer.last_epoch, trainer.batches
    print(
        f"recipe {recipe.name}: {recipe.backbone}, {recipe.height}×{recipe.width}, {epochs} epochs × "
        f"{batches} batches = {epochs * batches} steps, on {device}"
    )
    losses = _learn(trainer, state)
    tried = choose_rule(drd, recipe, shares["select"].pixels, request.seed)
    checkpoint = Checkpoint(
        product=request.product, recipe=recipe, rule=tried[0].rule, seed=request.seed,
        data_root=request.data.resolve(), libraries=libraries(), directory=request.out,
        splits={name: records(share.samples, share.pixels) for name, share in shares.items()},
    )  # fmt: skip
    save_checkpoint(checkpoint, drd)
    if tried[0].rule.factor and (jumping := jumps(drd, shares["select"].pixels)):
        print(
            f"WARNING: in bfloat16 the refinement takes another level on {jumping} of "
            f"{len(shares['select'].samples)} pictures, so that engines of less precision may be refused"
        )
    _report(checkpoint, drd, test, losses, tried, shares["select"])
    state.path.unlink()
    return checkpoint


def usable_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`, set to compute as exactly as a CPU. Raises TrainingError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: no CUDA device is usable here; --device cpu works anywhere")
    torch.backends.cudnn.allow_tf32 = False  # which rounds what a recipe has in float32 to 10 bits
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _network(recipe: Recipe, request: Request) -> DRD:
    teacher = load_teacher(recipe.backbone, request.weights, pre_relu=recipe.pre_relu)
    torch.manual_seed(request.seed)  # not before, as finding weights in one way or another draws numbers, too
    return DRD(teacher, recipe)


def _resume_file(recipe: Recipe, request: Request, fit: Tensor) -> ResumeFile:
    weights = file_digest(request.weights) if request.weights else None
    pictures = hashlib.sha256(fit.numpy().data).hexdigest()
    identity = f"{program_version()} {recipe!r} {request.seed} {weights} {pictures}"
    return ResumeFile(request.out / "resume.safetensors", identity)


def _learn(trainer: Trainer, state: ResumeFile) -> list[float]:
    """Train, saving after each epoch; returns the mean loss of each."""
    losses = state.load(trainer)
    if losses:
        print(f"going on after epoch {len(losses)}")
    elif state.path.exists():
        print("an unfinished run, damaged or with another program, options or pictures, is replaced")
    steps: list[float] = []
    total = trainer.last_epoch * trainer.batches
    done = len(losses) * trainer.batches
    with tqdm(total=total, initial=done, desc="training", unit="step", disable=None) as bar:

        def on_step(loss: float) -> None:
            steps.append(loss)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        for _ in trainer.epochs(on_step):
            losses.append(float(np.mean(steps)))
            steps.clear()
            state.save(trainer, losses)
            if bar.disable:  # a log, where a bar is one endless line
                print(f"epoch {len(losses)}/{trainer.last_epoch}: loss {losses[-1]:.3f}", flush=True)
    trainer.conclude()
    return losses


def _report(
    checkpoint: Checkpoint,
    drd: DRD,
    samples: tuple[Sample, ...],
    losses: list[float],
    tried: list[Candidate],
    select: Share,
) -> None:
    """`metrics.json`, `report.png`, and the figures on the terminal."""
    geometry, out = checkpoint.geometry, checkpoint.directory
    good = [sample.path for sample in select.samples]
    batches = torch.split(select.pixels, BATCH)  # in memory still
    good_scores = np.concatenate([drd.predict(batch.numpy())[1] for batch in batches]).astype(np.float64)
    paths = [sample.path for sample in samples]
    scored = score_images(drd.predict, paths, geometry, "measuring")
    test = evaluate(samples, scored, geometry) if paths else None
    write_report(
        out / REPORT,
        f"{checkpoint.product}: {checkpoint.recipe.name}",
        losses,
        good,
        good_scores,
        test,
        drd,
        geometry,
    )
    figures = test.quality.as_dict() if test else {}
    rules = [{"auroc_select": candidate.auroc, **candidate.rule.model_dump()} for candidate in tried]
    write_json(out / METRICS, {"test": figures or None, "epoch_losses": losses, "rules_tried": rules})
    for name, value in figures.items():
        if value is not None:
            print(f"  {name:<14} {value:.4f}" if isinstance(value, float) else f"  {name:<14} {value}")
    print(f"checkpoint in {out}; look at {out / REPORT}")
