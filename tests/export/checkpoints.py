"""A real checkpoint on disk, as small as possible: a tiny ResNet at 64 x 64 with an untrained student."""

from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image

from training.checkpoint import Checkpoint, libraries, load_checkpoint, records, save_checkpoint
from training.datasets import open_dataset
from training.images import read_frames
from training.model.drd import DRD
from training.model.heatmap import ScoreRule
from training.model.teacher import Teacher
from training.recipe import Recipe
from training.splits import split

RECIPE = Recipe(name="test", backbone="test_resnet", height=64, width=64)


def make_dataset(root: Path, good: int = 60, test: int = 6) -> Path:
    """An MVTec AD folder of noisy plates (80 x 72 pixels); the defective ones have a white rectangle."""
    rng = default_rng(0)
    for number in range(good):
        _save(root / "train/good" / f"{number:03}.png", _plate(rng))
    for number in range(test):
        _save(root / "test/good" / f"{number:03}.png", _plate(rng))
        damaged, mask = _plate(rng), np.zeros((72, 80), np.uint8)
        damaged[20:40, 30:55], mask[20:40, 30:55] = 255, 255
        _save(root / "test/blot" / f"{number:03}.png", damaged)
        _save(root / "ground_truth/blot" / f"{number:03}_mask.png", mask)
    return root


def make_checkpoint(directory: Path, data: Path) -> Path:
    """Writes a checkpoint of the product `plate` into `directory`, with splits of the images in `data`."""
    torch.manual_seed(0)
    rule = ScoreRule()
    drd = DRD(Teacher(RECIPE.backbone, pre_relu=RECIPE.pre_relu), RECIPE, rule).eval()
    fill_memory(drd)
    good = open_dataset(data).train
    splits = {name: [good[i] for i in places] for name, places in split(len(good), seed=0).items()}
    checkpoint = Checkpoint(
        product="plate",
        recipe=RECIPE,
        rule=rule,
        seed=0,
        data_root=data,
        splits={
            name: records(samples, torch.from_numpy(read_frames([s.path for s in samples], RECIPE.geometry)))
            for name, samples in splits.items()
        },
        libraries=libraries(),
        directory=directory,
    )
    save_checkpoint(checkpoint, drd)
    return directory


def break_network(directory: Path) -> Path:
    """Makes one weight of the checkpoint's student NaN."""
    checkpoint = load_checkpoint(directory)
    drd = checkpoint.model()
    next(drd.student.parameters()).data.view(-1)[0] = torch.nan
    save_checkpoint(checkpoint, drd)
    return directory


def fill_memory(drd: DRD) -> None:
    """Fills the memory as if from good parts: unit vectors, a sharpness, and random expected values."""
    assert drd.memory is not None
    drd.memory.vectors.copy_(torch.nn.functional.normalize(torch.randn_like(drd.memory.vectors)))
    drd.memory.sharpness.fill_(40)
    drd.memory.expected.uniform_(0.5, 2)


def _plate(rng: Generator) -> NDArray[np.uint8]:
    level = rng.uniform(90, 130)
    return rng.normal(level, 12, (72, 80, 3)).clip(0, 255).astype(np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
