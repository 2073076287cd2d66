"""Folders of images as the field lays them out: MVTec AD, BTAD, VisA, or good images only.

Every layout becomes one `Dataset`; which one was recognised is in its `layout`.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_GOOD = ("good", "ok")
"""Names of folders of good images, in lower case."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


class DatasetError(ValueError):
    """The folder is not a data set of a known layout; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it."""

    path: Path
    name: str
    """Path below the data set's root, with forward slashes."""
    kind: str = "good"
    """`good`, or the kind of defect."""
    mask: Path | None = None
    """Where the defect is: non-zero pixels, in a JPEG those over one half, of an image of the same shape.
    None: not known."""

    @property
    def defective(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Good images to learn from, labelled ones to be measured on."""

    root: Path
    product: str
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    left_out: str = ""
    """What else lies among the images, in words; empty: nothing."""

    def __str__(self) -> str:
        defective = sum(sample.defective for sample in self.test)
        masks = sum(sample.mask is not None for sample in self.test)
        return (
            f"{self.root}: {self.layout} layout, {len(self.train)} good to learn from, "
            f"test {len(self.test) - defective} good and {defective} defective, {masks} masks"
            f"{self.left_out and f'; left out: {self.left_out}'}"
        )


def open_dataset(root: Path, product: str | None = None) -> Dataset:
    """Recognise the layout of `root` and list it, in the order of names.

    Args:
        product: the product's name; in a VisA root also the object to read.

    Raises:
        DatasetError: no known layout, no good images, a mask missing where its layout demands one, or a
            name that is not UTF-8 or has backslashes.
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
        train = tuple(Sample(path, path.relative_to(root).as_posix()) for path in _images(root))
        dataset = Dataset(root, name, "plain folder", train, (), _others(root))
    if not dataset.train:
        wanted = ", ".join(sorted(SUFFIXES))
        raise DatasetError(
            f"{root}: no good pictures found; expected train/good (MVTec AD), train/ok (BTAD), "
            f"split_csv/1cls.csv (VisA), or pictures ({wanted}) in the folder itself"
        )
    samples = (*dataset.train, *dataset.test)
    for path in (root.resolve(), *(sample.path for sample in samples)):
        _check_name(path)
    for sample in samples:
        if "\\" in sample.name:  # what was in folders, defects among it, may lie in one
            raise DatasetError(
                f"{sample.path}: a backslash in the name, which zip files made on Windows may have for "
                "folders: unpack it again with `unzip`, or rename the file"
            )
    return dataset


def _check_name(path: Path) -> None:
    """Checkpoint and bundle name the images, in JSON."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{str(path)!r}: the name is not UTF-8; rename the file") from error


def parts_of(samples: Sequence[Sample], pattern: re.Pattern[str]) -> list[str]:
    """The part that each image shows: what `pattern` finds in the file's name or, if in no file's, in the
    path. Raises DatasetError if it is not found in all of them."""
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
        raise DatasetError(f"--same-part: {pattern.pattern!r} is not found in {missing[0]}{example}")
    return list(parts.values())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path)


def _is_hidden(path: Path) -> bool:
    """As what Jupyter and macOS leave behind."""
    return path.name.startswith(".")


def _images(folder: Path) -> list[Path]:
    return sorted(filter(_is_image, folder.iterdir()))


def _others(folder: Path) -> str:
    """What a folder of images holds besides, in words; hidden files are not looked at."""
    others = [path for path in folder.iterdir() if not _is_image(path) and not _is_hidden(path)]
    files = sum(path.is_file() for path in others)
    folders = sum(any(map(_is_image, path.rglob("*"))) for path in others if path.is_dir())
    links = sum(path.is_symlink() and not path.exists() for path in others)
    counts = [
        (folders, "subfolders with pictures"),
        (files, "files of other suffixes"),
        (links, "links to what is not there"),
    ]
    return " and ".join(f"{number} {what}" for number, what in counts if number)


def _folders(root: Path, product: str, layout: str, good: str) -> Dataset:
    """MVTec AD and BTAD: train/GOOD, test/KIND, ground_truth/KIND/NAME[_mask].*"""
    train = tuple(_samples(root, root / "train" / good, "good", masks={}))
    for folder in _visible_folders(root):
        name = folder.name.lower()
        if name in ("test", "ground_truth") and not (root / name).is_dir():
            raise DatasetError(f"{folder}: rename it to {name}")
    test: list[Sample] = []
    kinds = _visible_folders(root / "test")
    for folder in _visible_folders(root / "ground_truth") if kinds else ():
        known = folder.name in {kind.name for kind in kinds} or folder.name.lower() in _GOOD
        if not known and _masks(folder):
            raise DatasetError(f"{folder}: there is no folder test/{folder.name} that its masks belong to")
    for folder in kinds:
        masks = _masks(root / "ground_truth" / folder.name)
        kind = "good" if folder.name.lower() in _GOOD else folder.name
        if kind != "good" and masks:
            images = _images(folder)
            missing = [path.name for path in images if path.stem not in masks]
            if missing:
                raise DatasetError(
                    f"{folder}: no mask for {len(missing)} pictures, the first is {missing[0]}"
                )
            if len({path.stem for path in images}) < len(images):
                raise DatasetError(f"{folder}: two pictures differ in their suffix only, and share a mask")
        test += _samples(root, folder, kind, masks)
    return Dataset(root, product, layout, train, tuple(test), _left_out(root, root / "train" / good, kinds))


def _left_out(root: Path, good: Path, kinds: Sequence[Path]) -> str:
    """What else the folders `good`, test and test/KIND hold, in words."""
    said = [_others(good)]
    if (root / "test").is_dir() and (stray := _images(root / "test")):
        said.append(f"{len(stray)} pictures in test itself")
    said += [f"{others} in test/{kind.name}" for kind in kinds if (others := _others(kind))]
    return "; ".join(filter(None, said))


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not _is_hidden(path))


def _masks(folder: Path) -> dict[str, Path]:
    """Masks by the stem of their image; suffixes of the two may differ."""
    if not folder.is_dir():
        return {}
    return {path.stem.removesuffix("_mask"): path for path in _images(folder)}


def _samples(root: Path, folder: Path, kind: str, masks: dict[str, Path]) -> Iterable[Sample]:
    for path in _images(folder):
        yield Sample(
            path, path.relative_to(root).as_posix(), kind, masks.get(path.stem) if kind != "good" else None
        )


def _visa(root: Path, product: str | None) -> Dataset:
    """VisA: split_csv/1cls.csv with the columns object, split, label, image, mask."""
    table = root / "split_csv" / "1cls.csv"
    rows = _rows(table, {"object", "split", "label", "image", "mask"})
    objects = sorted({row["object"] for row in rows.values()})
    if product is None or product not in objects:
        raise DatasetError(f"{root}: VisA holds {', '.join(objects)}; name one with --product")
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for line, row in rows.items():
        split = row["split"].lower()
        if row["object"] == product and split in samples:
            samples[split].append(_visa_sample(root, row, f"{table}, line {line}"))
    train = tuple(sorted((s for s in samples["train"] if not s.defective), key=lambda s: s.name))
    return Dataset(root, product, "VisA", train, tuple(sorted(samples["test"], key=lambda s: s.name)))


def _rows(table: Path, columns: set[str]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file with a header, by their line. Raises DatasetError naming file and line."""
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")  # with the mark that spreadsheets put first, or without
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{table}, line {line}: not UTF-8 text") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = dict[int, dict[str, str]]()
    try:
        if not columns <= set(reader.fieldnames or ()):
            raise DatasetError(f"{table}: expected the columns {', '.join(sorted(columns))}")
        for row in reader:
            if None in row or None in row.values():
                raise DatasetError(f"{table}, line {reader.line_num}: not one cell for each column")
            rows[reader.line_num] = row
    except csv.Error as error:
        raise DatasetError(f"{table}, line {reader.line_num + 1}: {error}") from error
    if not rows:
        raise DatasetError(f"{table}: no rows")
    return rows


def _visa_sample(root: Path, row: dict[str, str], where: str) -> Sample:
    names = [row["image"], *filter(None, [row["mask"]])]
    for name in names:
        if Path(name).is_absolute():
            raise DatasetError(f"{where} names {name}: paths start at {root}")
        if not (root / name).is_file():
            raise DatasetError(f"{where} names {name!r}, which is not there")
    kind = "good" if row["label"].lower() == "normal" else "defect"
    mask = root / row["mask"] if row["mask"] and kind != "good" else None
    return Sample(root / row["image"], Path(row["image"]).as_posix(), kind, mask)
