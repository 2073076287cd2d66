"""The images that an export uses: good ones to calibrate with, and defective ones to verify engines with."""

import re
from collections.abc import Sequence
from pathlib import Path

from export.golden import spread
from export.report import say
from training.checkpoint import Checkpoint, CheckpointError
from training.datasets import DatasetError, Sample, open_dataset, parts_of
from training.evaluate import read_samples
from training.geometry import Geometry
from training.images import image_digest

_MAX_DEFECTIVE = 64
"""Defective images that are looked at: golden and validation frames are up to 52 of them."""


def calibration_images(checkpoint: Checkpoint, folder: Path | None, skip: bool = False) -> dict[Path, str]:
    """Good images that training has not seen, those it set aside or the new ones in `folder`, of which `skip`
    leaves unreadable ones out: the part that each shows."""
    if folder is None:
        try:  # a changed data set is refused, whichever of its images changed
            splits = {split: checkpoint.samples(split) for split in checkpoint.splits}
        except CheckpointError as error:
            raise CheckpointError(f"{error}; give good images with --calibration") from error
        samples = splits["calibrate"]
        say("Calibration", f"{len(samples)} good images that training set aside")
    else:
        dataset = open_dataset(folder, checkpoint.product)
        given: Sequence[Sample] = dataset.train
        if skip and not (given := readable(given, checkpoint.geometry)):
            raise DatasetError(f"{folder}: no good image can be read")
        samples = unseen(checkpoint, given)
        used = "of parts used in training" if checkpoint.same_part else "used in training"
        left_out = f"{len(given) - len(samples)} {used}, or copies, left out"
        say("Calibration", f"{len(samples)} good images of {folder}; {left_out}")
        if measured := sum(not sample.defective for sample in dataset.test):
            say("", f"{measured} more are not used: in the layout {dataset.layout} they are for measuring")
    parts = _told_parts(samples, checkpoint.same_part)
    if parts is None:
        parts = [sample.name for sample in samples]
        if checkpoint.same_part:
            pattern = checkpoint.same_part.pattern
            say("", f"{pattern!r}, by which training told parts, is in no name: each image counts as a part")
    if len(set(parts)) < len(parts):
        say("", f"of {len(set(parts))} parts: each counts once, with its highest score")
    return {sample.path: part for sample, part in zip(samples, parts, strict=True)}


def unseen(checkpoint: Checkpoint, samples: Sequence[Sample]) -> list[Sample]:
    """Those of `samples` that training has neither learned from nor chosen by; of copies, one; of a part that
    it has seen, none, if names tell parts. Raises DatasetError if none is left."""
    parts: Sequence[str | None] = _told_parts(samples, checkpoint.same_part) or [None] * len(samples)
    learned = [Sample(Path(record.name), record.name) for record in checkpoint.learned]
    seen_parts = set(_told_parts(learned, checkpoint.same_part) or ())
    seen, new = {record.frame_sha256 for record in checkpoint.learned}, list[Sample]()
    for sample, part in zip(samples, parts, strict=True):
        if part in seen_parts:
            continue
        digest = image_digest(sample.path, checkpoint.geometry)
        if digest not in seen:
            seen.add(digest)  # a copy of an image is no further one
            new.append(sample)
    if not new:
        of_parts = ", or others of the same parts" if seen_parts else ""
        raise DatasetError(f"all {len(samples)} pictures were used in training{of_parts}; give others")
    return new


def _told_parts(samples: Sequence[Sample], pattern: re.Pattern[str] | None) -> list[str] | None:
    """The part that each image shows; None if no name tells it. Raises DatasetError if only some do."""
    names = [name for sample in samples for name in (sample.path.name, sample.name)]
    return parts_of(samples, pattern) if pattern and any(map(pattern.search, names)) else None


def defective_images(checkpoint: Checkpoint, folder: Path | None) -> list[Path]:
    """Known defective parts that can be read: of `folder`, else of the data that was trained on. Empty if
    neither has any, or the data has moved: golden frames can do without them."""
    for root in (folder, checkpoint.data_root):
        try:
            test = () if root is None else open_dataset(root, checkpoint.product).test
        except (DatasetError, OSError):
            continue
        if defective := [sample for sample in test if sample.defective]:
            known = readable(spread(defective, _MAX_DEFECTIVE), checkpoint.geometry)
            return [sample.path for sample in known]
    return []


def readable(samples: Sequence[Sample], geometry: Geometry) -> list[Sample]:
    """Those whose image and mask can be read, as with drd-train --skip-unreadable; of each other one, a
    line."""
    return [sample for sample, _ in read_samples(samples, geometry, _leave_out)]


def _leave_out(error: Exception) -> None:
    say("Left out", str(error))
