"""Folders of pictures as the field lays them out: MVTec AD, BTAD, VisA, or good images only.

Every layout becomes one `Dataset`; which one was recognised is in its `layout`.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.geometry import Geometry

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


class DatasetError(ValueError):
    """The folder is not a data set of a known layout; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known of it."""

    path: Path
    name: str
    """Path below the data set's root, with forward slashes."""
    kind: str = "good"
    """`good`, or the kind of defect."""
    mask: Path | None = None
    """Where the defect is: non-zero pixels of a picture of the same size. None: not known."""

    @property
    def defective(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Good pictures to learn from, labelled ones to be measured on."""

    root: Path
    product: str
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def __str__(self) -> str:
        defective = sum(sample.defective for sample in self.test)
        masks = sum(sample.mask is not None for sample in self.test)
        return (
            f"{self.root}: {self.layout} layout, {len(self.train)} good to learn from, "
            f"test {len(self.test) - defective} good and {defective} defective, {masks} masks"
        )


def open_dataset(root: Path, product: str | None = None) -> Dataset:
    """Recognise the layout of `root` and list it, in the order of names.

    Args:
        product: the product's name; in a VisA root also the object to read.

    Raises:
        DatasetError: no known layout, no good pictures, or a mask missing where its layout demands one.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    name = product or root.resolve().name
    if (root / "split_csv" / "1cls.csv").is_file():
        dataset = _visa(root, product)
    elif (root / "train" / "good").is_dir():
        dataset = _folders(root, name, "MVTec AD", good="good")
    elif (root / "train" / "ok").is_dir():
        dataset = _folders(root, name, "BTAD", good="ok")
    else:
        train = tuple(Sample(path, path.relative_to(root).as_posix()) for path in _pictures(root))
        dataset = Dataset(root, name, "plain folder", train, ())
    if not dataset.train:
        wanted = ", ".join(sorted(SUFFIXES))
        raise DatasetError(
            f"{root}: no good pictures found; expected train/good (MVTec AD), train/ok (BTAD), "
            f"split_csv/1cls.csv (VisA), or pictures ({wanted}) in the folder itself"
        )
    return dataset


def read_mask(path: Path, geometry: Geometry) -> NDArray[np.bool_]:
    """The defect mask at the network's size, bool `[H, W]`: resized, then over one half."""
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path}: not a readable mask ({error})") from error
    rgb = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    return geometry.apply(rgb)[:, :, 0] > 127


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _folders(root: Path, product: str, layout: str, good: str) -> Dataset:
    """MVTec AD and BTAD: train/GOOD, test/KIND, ground_truth/KIND/NAME[_mask].*"""
    train = tuple(_samples(root, root / "train" / good, "good", masks={}))
    test: list[Sample] = []
    kinds = sorted(path for path in (root / "test").glob("*") if path.is_dir())
    for folder in kinds:
        masks = _masks(root / "ground_truth" / folder.name)
        if folder.name != good and masks:
            missing = [path.name for path in _pictures(folder) if path.stem not in masks]
            if missing:
                raise DatasetError(
                    f"{folder}: no mask for {len(missing)} pictures, the first is {missing[0]}"
                )
        test += _samples(root, folder, "good" if folder.name == good else folder.name, masks)
    return Dataset(root, product, layout, train, tuple(test))


def _masks(folder: Path) -> dict[str, Path]:
    """Masks by the stem of their picture; suffixes of the two may differ."""
    if not folder.is_dir():
        return {}
    return {path.stem.removesuffix("_mask"): path for path in _pictures(folder)}


def _samples(root: Path, folder: Path, kind: str, masks: dict[str, Path]) -> Iterable[Sample]:
    for path in _pictures(folder):
        yield Sample(
            path, path.relative_to(root).as_posix(), kind, masks.get(path.stem) if kind != "good" else None
        )


def _visa(root: Path, product: str | None) -> Dataset:
    """VisA: split_csv/1cls.csv with the columns object, split, label, image, mask."""
    table = root / "split_csv" / "1cls.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {"object", "split", "label", "image", "mask"}
    if not rows or not columns <= rows[0].keys():
        raise DatasetError(f"{table}: expected the columns {', '.join(sorted(columns))}")
    objects = sorted({row["object"] for row in rows})
    if product is None or product not in objects:
        raise DatasetError(f"{root}: VisA holds {', '.join(objects)}; name one with --product")
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if row["object"] == product and row["split"] in samples:
            samples[row["split"]].append(_visa_sample(root, row))
    train = tuple(sorted((s for s in samples["train"] if not s.defective), key=lambda s: s.name))
    return Dataset(root, product, "VisA", train, tuple(sorted(samples["test"], key=lambda s: s.name)))


def _visa_sample(root: Path, row: dict[str, str]) -> Sample:
    path = root / row["image"]
    mask = root / row["mask"] if row["mask"] else None
    for file in (path, mask):
        if file is not None and not file.is_file():
            raise DatasetError(
                f"{root}: split_csv/1cls.csv names {file.relative_to(root)}, which is not there"
            )
    return Sample(path, Path(row["image"]).as_posix(), "good" if row["label"] == "normal" else "defect", mask)
