"""Folders of images as the field lays them out: MVTec AD, BTAD, VisA, good and defective, or good only.

Every layout becomes one `Dataset`; which one was recognised is in its `layout`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.files import is_file, is_folder
from training.samples import Dataset as Dataset  # what a data set is made of
from training.samples import DatasetError as DatasetError
from training.samples import Sample as Sample
from training.visa import open_visa, table_of

_GOOD = ("good", "ok")
"""Names of folders of good images, in lower case."""
_MEASURED = 5
"""Where good images are in one folder, beside defective ones, one in so many is for measuring."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


def open_dataset(root: Path, product: str | None = None) -> Dataset:
    """Recognise the layout of `root` and list it, in the order of names. `product` is its name, and in a VisA
    root also the object to read.

    Raises DatasetError for no known layout, no good images, a mask missing where its layout demands one, two
    of them, a wrong row of a table, or a name that is not UTF-8 or has backslashes.
    """
    if not is_folder(root):
        raise DatasetError(f"{root}: no such folder")
    name = product or root.resolve().name
    if is_file(table_of(root)):
        dataset = open_visa(root, product)
    elif is_folder(root / "train" / "good"):
        dataset = _folders(root, name, "MVTec AD", good="good")
    elif is_folder(root / "train" / "ok"):
        dataset = _folders(root, name, "BTAD", good="ok")
    elif _has_good_folder(root):
        dataset = _good_and_defective(root, name)
    else:
        train = tuple(Sample(path, path.relative_to(root).as_posix()) for path in _images(root))
        dataset = Dataset(root, name, "plain folder", train, (), _others(root))
    if not dataset.train:
        wanted = ", ".join(sorted(SUFFIXES))
        elsewhere = f" (left out: {dataset.left_out})" if dataset.left_out else ""
        raise DatasetError(
            f"{root}: no good pictures found{elsewhere}; expected train/good (MVTec AD), train/ok (BTAD), "
            f"split_csv/1cls.csv (VisA), a folder good or ok, or pictures ({wanted}) in the folder itself"
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


def belongs_to(root: Path, folder: Path) -> bool:
    """Whether a picture in `folder`, which need not exist, would count as one of the data set `root`: a good
    one, or of a kind. Not told of VisA, whose pictures are listed."""

    def real(path: Path) -> Path:  # Path.resolve raises RuntimeError for a link to itself
        return Path(os.path.realpath(path))

    folder, learned_from = real(folder), [root / "train" / name for name in _GOOD]
    if folder in map(real, (root, *learned_from)):
        return True
    if any(map(is_folder, learned_from)):
        kinds = root / "test"
    elif is_folder(root) and _has_good_folder(root):
        kinds = root
    else:
        return False
    return folder.parent == real(kinds) and not _is_hidden(folder)


def _check_name(path: Path) -> None:
    """Checkpoint and bundle name the images, in JSON."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{str(path)!r}: the name is not UTF-8; rename the file") from error


def parts_of(samples: Sequence[Sample], pattern: re.Pattern[str]) -> list[str]:
    """The part that each image shows: what `pattern` finds in the file's name or, if in no file's, in the
    path; of a pattern with groups, the first one that found something. Raises DatasetError if it is not found
    in all of them."""
    found = [pattern.search(sample.path.name) for sample in samples]
    if not any(found):
        found = [pattern.search(sample.name) for sample in samples]
    parts = {
        place: next(filter(None, match.groups()), match[0]) for place, match in enumerate(found) if match
    }
    missing = [sample.name for place, sample in enumerate(samples) if place not in parts]
    if missing:
        known = [f"; in {samples[place].name} it finds {part!r}" for place, part in parts.items()]
        example = known[0] if known else ""
        raise DatasetError(f"--same-part: {pattern.pattern!r} is not found in {missing[0]}{example}")
    return list(parts.values())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and is_file(path) and not _is_hidden(path)


def _is_hidden(path: Path) -> bool:
    """Such files are left behind by Jupyter and macOS."""
    return path.name.startswith(".")


def _images(folder: Path) -> list[Path]:
    return sorted(filter(_is_image, folder.iterdir()))


def _others(folder: Path) -> str:
    """Description of what else a folder of images holds, hidden files aside."""
    others = [path for path in folder.iterdir() if not _is_image(path) and not _is_hidden(path)]
    files = sum(is_file(path) for path in others)
    folders = sum(any(map(_is_image, path.rglob("*"))) for path in others if is_folder(path))
    links = sum(path.is_symlink() and not path.exists() for path in others)
    counts = [
        (folders, "subfolders with pictures"),
        (files, "files of other suffixes"),
        (links, "links to what is not there"),
    ]
    return " and ".join(f"{number} {what}" for number, what in counts if number)


def _folders(root: Path, product: str, layout: str, good: str) -> Dataset:
    """MVTec AD and BTAD: train/GOOD, test/KIND, ground_truth/KIND/NAME[_mask].*"""
    learned, kinds = root / "train" / good, _visible_folders(root / "test")
    _check_folders(root, kinds)
    train = tuple(_samples(root, learned, "good", {}))
    test = tuple(sample for folder in kinds for sample in _labelled(root, folder))
    return Dataset(root, product, layout, train, test, _left_out(root, learned, kinds))


def _good_and_defective(root: Path, product: str) -> Dataset:
    """GOOD, KIND, ground_truth/KIND/NAME[_mask].*: the last of the good, by name, are for measuring."""
    folders = [folder for folder in _visible_folders(root) if folder.name.lower() != "ground_truth"]
    _check_folders(root, folders)
    samples = [sample for folder in folders for sample in _labelled(root, folder)]
    good = [sample for sample in samples if not sample.defective]
    learned = len(good) - len(good) // _MEASURED
    test = (*good[learned:], *(sample for sample in samples if sample.defective))
    others = [f"{others} in {folder.name}" for folder in folders if (others := _others(folder))]
    return Dataset(root, product, "good and defective", tuple(good[:learned]), test, "; ".join(others))


def _labelled(root: Path, folder: Path) -> Iterable[Sample]:
    """The images of a folder that is named for what they show."""
    if _is_good(folder):
        return _samples(root, folder, "good", {})
    masks = _masks(root / "ground_truth" / folder.name)
    if masks:
        _check_masks(folder, masks)
    return _samples(root, folder, folder.name, masks)


def _has_good_folder(root: Path) -> bool:
    """Unless pictures beside it, or folders train and test, say that another layout was meant."""
    folders = _visible_folders(root)
    another = _images(root) or {"train", "test"} & {folder.name.lower() for folder in folders}
    return any(map(_is_good, folders)) and not another


def _is_good(folder: Path) -> bool:
    return folder.name.lower() in _GOOD


def _check_folders(root: Path, kinds: Sequence[Path]) -> None:
    """Raises DatasetError for a folder that its name would hide: in capitals, or of masks for none of the
    `kinds`."""
    for folder in _visible_folders(root):
        name = folder.name.lower()
        if name in ("test", "ground_truth") and not is_folder(root / name):
            raise DatasetError(f"{folder}: rename it to {name}")
    known = {kind.name for kind in kinds}
    for folder in _visible_folders(root / "ground_truth") if kinds else ():
        if folder.name not in known and not _is_good(folder) and _images(folder):
            kind = (kinds[0].parent / folder.name).relative_to(root)
            raise DatasetError(f"{folder}: there is no folder {kind} that its masks belong to")


def _check_masks(folder: Path, masks: Mapping[str, Path]) -> None:
    """Raises DatasetError unless each image in the folder has one of its own."""
    images = _images(folder)
    missing = [path.name for path in images if path.stem not in masks]
    if missing:
        raise DatasetError(f"{folder}: no mask for {len(missing)} pictures, the first is {missing[0]}")
    if len({path.stem for path in images}) < len(images):
        raise DatasetError(f"{folder}: two pictures differ in their suffix only, and share a mask")


def _left_out(root: Path, good: Path, kinds: Sequence[Path]) -> str:
    """Description of what else the folders `good`, test and test/KIND hold."""
    said = [_others(good)]
    if is_folder(root / "test") and (stray := _images(root / "test")):
        said.append(f"{len(stray)} pictures in test itself")
    said += [f"{others} in test/{kind.name}" for kind in kinds if (others := _others(kind))]
    return "; ".join(filter(None, said))


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if is_folder(path) and not _is_hidden(path))


def _masks(folder: Path) -> dict[str, Path]:
    """Masks by the stem of their image; suffixes of the two may differ. Raises DatasetError if an image has
    two."""
    masks = dict[str, Path]()
    for path in _images(folder) if is_folder(folder) else ():
        first = masks.setdefault(path.stem.removesuffix("_mask"), path)
        if first is not path:
            raise DatasetError(f"{first} and {path.name}: two masks for one picture; keep the right one")
    return masks


def _samples(root: Path, folder: Path, kind: str, masks: Mapping[str, Path]) -> Iterable[Sample]:
    for path in _images(folder):
        yield Sample(path, path.relative_to(root).as_posix(), kind, masks.get(path.stem))
