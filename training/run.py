"""One training run from folder to checkpoint directory: what `drd-train` does."""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import Checkpoint, libraries, records, save_checkpoint, write_json
from training.choose import Candidate, choose_rule, preset
from training.datasets import DatasetError, Sample, open_dataset, read_mask
from training.evaluate import evaluate, score_images
from training.files import file_digest
from training.geometry import Geometry, UnreadableImage, read_rgb
from training.loop import Trainer, TrainingError
from training.model.drd import DRD
from training.model.weights import load_teacher
from training.preview import write_preview
from training.recipe import Recipe, load_recipe
from training.report import write_report
from training.resume import ResumeFile
from training.shape import shaped
from training.splits import Split, split

_TWELVE_BITS = 16
"""White of a 12-bit picture that was stored in 16 bits as it is, on the 0–255 scale."""
_FEW = 50
"""Good pictures with which to start, at least."""


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
    dataset = open_dataset(request.data, request.product)
    print(dataset)
    recipe = shaped(recipe, [sample.path for sample in dataset.train])
    good, digests = _read_good(dataset.train, recipe.geometry, request.skip_unreadable)
    shares = _split(good, request)
    # Before training, not after hours of it.
    test = _read_test(dataset.test, recipe.geometry, request.skip_unreadable, digests)
    device = _device(request.device)
    fit = shares["fit"].pixels
    if fit.max() <= _TWELVE_BITS:
        print(
            f"WARNING: no pixel is brighter than {int(fit.max())} of 255, so few grey levels are left. Are "
            "these 10- or 12-bit pictures in 16-bit files? Then scale them to 16 bits, here and at the camera"
        )
    if request.preview is not None:
        write_preview(request.preview, fit, preset(recipe), request.seed)
    drd = _network(recipe, request)
    state = _resume_file(recipe, request, fit)
    trainer = Trainer(drd, recipe, fit, request.seed, device)
    size = f"{recipe.height}×{recipe.width}"
    print(f"recipe {recipe.name}: {recipe.backbone}, {size}, {trainer.last_epoch} epochs, on {device}")
    losses = _learn(trainer, state)
    drd.to("cpu")
    tried = choose_rule(drd, recipe, shares["select"].pixels, request.seed)
    checkpoint = Checkpoint(
        product=request.product, recipe=recipe, rule=tried[0].rule, seed=request.seed,
        data_root=request.data.resolve(), libraries=libraries(), directory=request.out,
        splits={name: records(share.samples) for name, share in shares.items()},
    )  # fmt: skip
    save_checkpoint(checkpoint, drd)
    _report(checkpoint, drd, test, losses, tried, shares["select"])
    state.path.unlink()
    return checkpoint


@dataclass(frozen=True, slots=True)
class _Share:
    samples: list[Sample]
    pixels: Tensor
    """uint8 RGB `[n, H, W, 3]`."""


def _read_good(samples: Sequence[Sample], geometry: Geometry, skip: bool) -> tuple[_Share, Collection[bytes]]:
    """All good pictures but copies of another, and their digests: one copy could train, and another set the
    threshold. Copies are equal at the network's size, whatever else their files hold."""
    pixels = np.empty((len(samples), geometry.height, geometry.width, 3), np.uint8)
    first, copies = dict[bytes, Sample](), list[Sample]()
    for sample, frame in _readable(samples, geometry, "good", skip):
        if first.setdefault(_digest(frame), sample) is sample:
            pixels[len(first) - 1] = frame
        else:
            copies.append(sample)
    if copies:
        print(f"left out: {len(copies)} copies of other pictures, the first is {copies[0].name}")
    return _Share(list(first.values()), torch.from_numpy(pixels[: len(first)])), first.keys()


def _read_test(
    samples: Sequence[Sample], geometry: Geometry, skip: bool, good: Collection[bytes]
) -> tuple[Sample, ...]:
    """The readable ones. Says if some are among those with the digests `good`."""
    kept, copies = list[Sample](), list[Sample]()
    for sample, frame in _readable(samples, geometry, "test", skip):
        kept.append(sample)
        if _digest(frame) in good:
            copies.append(sample)
    if copies:
        print(
            f"WARNING: {len(copies)} test pictures are copies of good ones to learn from, which flatters "
            f"the figures; the first is {copies[0].name}"
        )
    return tuple(kept)


def _digest(frame: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(frame.tobytes()).digest()


def _split(good: _Share, request: Request) -> dict[Split, _Share]:
    """The shares of `good`, whose pixels are reordered in place."""
    total, pattern = len(good.samples), request.same_part
    parts = None if pattern is None else _parts(good.samples, pattern)
    try:
        places = split(range(total), request.seed, parts.__getitem__ if parts else None)
    except ValueError as error:
        option = f"--same-part {pattern.pattern!r}: " if pattern else ""
        example = f"; in {good.samples[0].name} it finds {parts[0]!r}" if parts else ""
        raise TrainingError(f"{option}{error}{example}") from error
    fit, select, calibrate = (len(share) for share in places.values())
    print(f"{fit} to train, {select} to choose the score rule, {calibrate} to set the threshold")
    if total < _FEW:
        print(f"WARNING: {total} good pictures are few: start with {_FEW}, better 400 or more")
    pixels, order = good.pixels.numpy(), list(chain(*places.values()))
    for row in range(pixels.shape[1]):  # one row of all pictures at a time: no second copy of them
        pixels[:, row] = pixels[order, row]
    shares = torch.split(good.pixels, [fit, select, calibrate])
    return {
        name: _Share([good.samples[place] for place in places[name]], share)
        for name, share in zip(places, shares, strict=True)
    }


def _parts(samples: Sequence[Sample], pattern: re.Pattern[str]) -> list[str]:
    """The part on each picture: what `pattern` finds in the file's name or, if in no file's, in the path."""
    found = [pattern.search(sample.path.name) for sample in samples]
    if not any(found):
        found = [pattern.search(sample.name) for sample in samples]
    parts = {
        sample.name: match[1 if pattern.groups else 0] or match[0]
        for sample, match in zip(samples, found, strict=True)
        if match
    }
    missing = [sample.name for sample in samples if sample.name not in parts]
    if missing:
        example = "".join(f"; in {name} it finds {part!r}" for name, part in list(parts.items())[:1])
        raise TrainingError(f"--same-part: {pattern.pattern!r} is not found in {missing[0]}{example}")
    return list(parts.values())


def _readable(
    samples: Sequence[Sample], geometry: Geometry, name: str, skip: bool
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """Each sample with its frame `[H, W, 3]`. An unreadable picture or mask stops the run (TrainingError), or
    is named and left out."""
    for sample in tqdm(samples, f"reading {name}", unit="image", leave=False, disable=None):
        try:
            rgb = read_rgb(sample.path)
            if sample.mask is not None:
                read_mask(sample.mask, geometry, (rgb.shape[0], rgb.shape[1]))
        except (UnreadableImage, DatasetError) as error:
            if not skip:
                raise TrainingError(f"{error}; repair or remove it, or give --skip-unreadable") from error
            tqdm.write(f"left out: {error}")
        else:
            yield sample, geometry.apply(rgb)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: no CUDA device is usable here; --device cpu works anywhere")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _network(recipe: Recipe, request: Request) -> DRD:
    torch.manual_seed(request.seed)
    return DRD(load_teacher(recipe.backbone, request.weights), recipe)


def _resume_file(recipe: Recipe, request: Request, fit: Tensor) -> ResumeFile:
    weights = file_digest(request.weights) if request.weights else None
    pictures = hashlib.sha256(fit.numpy().data).hexdigest()
    return ResumeFile(request.out / "resume.safetensors", f"{recipe!r} {request.seed} {weights} {pictures}")


def _learn(trainer: Trainer, state: ResumeFile) -> list[float]:
    """Train, saving after each epoch; returns the mean loss of each."""
    losses = state.load(trainer)
    if losses:
        print(f"going on after epoch {len(losses)}")
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
    select: _Share,
) -> None:
    """`metrics.json`, `report.png`, and the figures on the terminal."""
    geometry, out = checkpoint.geometry, checkpoint.directory
    good = np.array(
        [score for _, score in score_images(drd.predict, [s.path for s in select.samples], geometry)]
    )
    paths = [sample.path for sample in samples]
    scored = score_images(drd.predict, paths, geometry)
    walk = tqdm(scored, "measuring", len(paths), unit="image", leave=False, disable=None)
    test = evaluate(samples, walk, geometry) if paths else None
    write_report(
        out / "report.png",
        f"{checkpoint.product}: {checkpoint.recipe.name}",
        losses,
        good,
        test,
        drd,
        geometry,
    )
    figures = test.quality.as_dict() if test else {}
    rules = [{"auroc_select": candidate.auroc, **candidate.rule.model_dump()} for candidate in tried]
    write_json(out / "metrics.json", {"test": figures or None, "epoch_losses": losses, "rules_tried": rules})
    for name, value in figures.items():
        if value is not None:
            print(f"  {name:<14} {value:.4f}" if isinstance(value, float) else f"  {name:<14} {value}")
    print(f"checkpoint in {out}; look at {out / 'report.png'}")
