"""The images that an export uses: good ones to calibrate with, and defective ones to verify engines with."""

import re
from collections.abc import Sequence
from pathlib import Path

from export.calibrate import CalibrationError
from export.golden import spread
from export.report import say
from training.checkpoint import Checkpoint
from training.datasets import DatasetError, Sample, open_dataset, parts_of
from training.geometry import UnreadableImage, image_digest, read_rgb

_MAX_DEFECTIVE = 64
"""Defective images that are looked at: golden and validation frames are up to 52 of them."""


def calibration_images(checkpoint: Checkpoint, folder: Path | None) -> dict[Path, str]:
    """Good images that training has not seen, those it set aside or the new ones in `folder`: the part that
    each shows."""
    if folder is None:
        checkpoint.samples("fit")  # a changed data set is refused, whichever of its images changed
        checkpoint.samples("select")
        samples = checkpoint.samples("calibrate")
        say("Calibration", f"{len(samples)} good images that training set aside")
    else:
        samples = _new_images(checkpoint, folder)
    parts = _parts(samples, checkpoint.same_part)
    if len(set(parts)) < len(parts):
        say("", f"of {len(set(parts))} parts: each counts once, with its highest score")
    return {sample.path: part for sample, part in zip(samples, parts, strict=True)}


def _parts(samples: Sequence[Sample], same_part: str | None) -> list[str]:
    """The part that each image shows. Raises DatasetError if that is known of some of them only."""
    if same_part is None:
        return [sample.name for sample in samples]
    pattern = re.compile(same_part)
    if not any(pattern.search(text) for sample in samples for text in (sample.path.name, sample.name)):
        say("", f"{same_part!r}, by which training told parts, is in no name: each image counts as a part")
        return [sample.name for sample in samples]
    return parts_of(samples, pattern)


def _new_images(checkpoint: Checkpoint, folder: Path) -> list[Sample]:
    given = open_dataset(folder, checkpoint.product).train
    seen, new = set(checkpoint.learned), list[Sample]()
    for sample in given:
        digest = image_digest(sample.path, checkpoint.geometry)
        if digest not in seen:
            seen.add(digest)  # a copy of an image is no further one
            new.append(sample)
    if not new:
        raise CalibrationError(f"{folder}: all {len(given)} images were used in training; give others")
    left_out = f"{len(given) - len(new)} used in training, or copies, left out"
    say("Calibration", f"{len(new)} good images of {folder}; {left_out}")
    return new


def defective_images(checkpoint: Checkpoint, folder: Path | None) -> list[Path]:
    """Known defective parts that can be read: of `folder`, else of the data that was trained on. Empty if
    neither has any, or the data has moved: golden frames can do without them."""
    for root in (folder, checkpoint.data_root):
        try:
            test = () if root is None else open_dataset(root, checkpoint.product).test
        except (DatasetError, OSError):
            continue
        if defective := [sample.path for sample in test if sample.defective]:
            return _readable(spread(defective, _MAX_DEFECTIVE))
    return []


def _readable(paths: Sequence[Path]) -> list[Path]:
    """Those of `paths` that can be read, as drd-train --skip-unreadable does; of each other one, a line."""
    readable = list[Path]()
    for path in paths:
        try:
            read_rgb(path)
        except UnreadableImage as error:
            say("Skipped", str(error))
        else:
            readable.append(path)
    return readable
