"""One training run from folder to checkpoint directory: what `drd-train` does."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import (
    RESUME,
    Checkpoint,
    CheckpointError,
    libraries,
    load_checkpoint,
    records,
    save_checkpoint,
)
from training.datasets import DatasetError, open_dataset
from training.geometry import UnreadableImage
from training.input_size import shaped, some_sizes, stretching
from training.locks import locked
from training.loop import Trainer, TrainingError
from training.model.drd import DRD
from training.model.teacher import BackboneError
from training.model.weights import load_teacher
from training.outcome import measure, tell
from training.preview import write_preview
from training.recipe import Recipe, RecipeError, load_recipe
from training.resume import ResumeFile
from training.score_rule import choose_rule, damage_of, level_changes
from training.subsets import divide, read_good, read_test, warn_of_shared_parts

FAILURES = (BackboneError, DatasetError, RecipeError, TrainingError, UnreadableImage, OSError)
"""What `train` raises. Any other exception, except for lack of memory, is a bug."""

_FOURTEEN_BITS = 64
"""White of a 14-bit image that was stored in 16 bits as it is, on the 0–255 scale."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of `drd-train`."""

    data: Path
    product: str
    out: Path
    recipe: str
    seed: int
    device: str
    backbone: str | None = None
    weights: Path | None = None
    epochs: int | None = None
    size: Sequence[int] | None = None
    """Height and width."""
    preview: Path | None = None
    skip_unreadable: bool = False
    same_part: re.Pattern[str] | None = None


def train(options: TrainOptions) -> Checkpoint:
    """Train and write the checkpoint, printing progress. Raises one of `FAILURES`."""
    height, width = options.size or (None, None)
    recipe = load_recipe(
        options.recipe, backbone=options.backbone, epochs=options.epochs, height=height, width=width
    )
    if options.preview is not None:
        if recipe.synthesis == "none":
            raise RecipeError(f"--preview: the recipe {recipe.name} learns with no pseudo-abnormal pictures")
        options.preview.parent.mkdir(parents=True, exist_ok=True)
    device = usable_device(options.device)
    with _alone_in(options.out):
        _check_product(options.out, options.product)
        return _train(recipe, options, device)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder; until the end, however that comes, no other training can be in it. Raises
    TrainingError if one is."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise TrainingError(f"{folder}: this user may not write there")
    with ExitStack() as until_the_end:
        try:
            until_the_end.enter_context(locked(folder))
        except BlockingIOError as error:
            raise TrainingError(f"{folder}: another training is running in this folder") from error
        except PermissionError:  # which os.access does not foresee on Windows
            raise
        except OSError:
            print(f"WARNING: {folder} can't be locked: let no other training run there")
        yield


def _check_product(folder: Path, product: str) -> None:
    """Raises TrainingError if the folder holds another product's checkpoint, which would be replaced."""
    with suppress(CheckpointError):  # there is none, or none that this program could read
        if (other := load_checkpoint(folder).product) != product:
            raise TrainingError(
                f"{folder}: holds the checkpoint of {other!r}: give {product!r} another --out"
            )


def _train(recipe: Recipe, options: TrainOptions, device: torch.device) -> Checkpoint:
    dataset = open_dataset(options.data, options.product)
    print(dataset)
    sizes = some_sizes([sample.path for sample in dataset.train])
    recipe = shaped(recipe, sizes)
    if note := stretching(sizes, recipe):
        print(note)
    drd = _network(recipe, options)  # before all images are read: a wrong name or file shows at once
    good, digests = read_good(dataset.train, recipe.geometry, options.skip_unreadable)
    subsets = divide(good, options.seed, options.same_part)
    # Before training, not after hours of it.
    test = read_test(dataset.test, recipe.geometry, options.skip_unreadable, digests)
    if options.same_part:
        warn_of_shared_parts(good.samples, test, options.same_part)
    fit, select = subsets["fit"].frames, subsets["select"].frames
    _warn_if_dark(fit)
    if options.preview is not None:
        write_preview(options.preview, fit, damage_of(recipe), options.seed)
    state = ResumeFile(options.out / RESUME, recipe, options.seed, options.weights, fit)
    trainer = Trainer(drd, recipe, fit, options.seed, device)
    epochs, batches = trainer.last_epoch, trainer.batches
    print(
        f"recipe {recipe.name}: {recipe.backbone}, {recipe.height}×{recipe.width}, {epochs} epochs × "
        f"{batches} batches = {epochs * batches} steps, on {device}"
    )
    losses = _learn(trainer, state)
    candidates = choose_rule(drd, recipe, select, options.seed)
    checkpoint = Checkpoint(
        product=options.product, recipe=recipe, rule=candidates[0].rule, seed=options.seed,
        data_root=options.data.resolve(), libraries=libraries(), directory=options.out,
        same_part=options.same_part,
        splits={name: records(subset.samples, subset.frames) for name, subset in subsets.items()},
    )  # fmt: skip
    checkpoint = save_checkpoint(checkpoint, drd)
    if checkpoint.rule.refinement:
        _warn_if_levels_change(drd, select)
    figures = measure(drd, recipe.geometry, losses, subsets, test)
    tell(checkpoint, drd, figures, candidates)
    state.path.unlink()
    return checkpoint


def _warn_if_dark(fit: Tensor) -> None:
    if fit.max() <= _FOURTEEN_BITS:
        print(
            f"WARNING: no pixel is brighter than {int(fit.max())} of 255, so few grey levels are left. Are "
            "these 10-, 12- or 14-bit pictures in 16-bit files? Then scale them to 16 bits, here and at the "
            "camera"
        )


def _warn_if_levels_change(drd: DRD, select: Tensor) -> None:
    if changes := level_changes(drd, select):
        print(
            f"WARNING: in bfloat16 the refinement takes another level on {changes} of "
            f"{len(select)} pictures, so that engines of less precision may be refused"
        )


def usable_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`, set to compute as exactly as a CPU. Raises TrainingError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: no CUDA device is usable here; --device cpu works anywhere")
    torch.backends.cudnn.allow_tf32 = False  # which rounds what a recipe has in float32 to 10 bits
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _network(recipe: Recipe, options: TrainOptions) -> DRD:
    teacher = load_teacher(recipe.backbone, options.weights, pre_relu=recipe.pre_relu)
    torch.manual_seed(options.seed)  # not before, as finding weights in one way or another draws numbers, too
    return DRD(teacher, recipe)


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
