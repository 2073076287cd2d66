"""The pictures that an export uses: good ones to calibrate with, and defective ones to prove engines with."""

from collections.abc import Sequence
from pathlib import Path

from export.calibrate import CalibrationError
from export.golden import spread
from export.report import Say
from training.checkpoint import Checkpoint
from training.datasets import DatasetError, open_dataset
from training.geometry import UnreadableImage, picture_digest, read_rgb

_DEFECTIVE = 64
"""Most defective pictures that are looked at: golden frames and survey use up to 52."""


def calibration_images(checkpoint: Checkpoint, folder: Path | None, say: Say) -> list[Path]:
    """Good images that training has not seen: those it set aside, or the new ones in `folder`."""
    if folder is None:
        # A changed data set is refused, whichever of its pictures changed.
        paths = {split: checkpoint.images(split) for split in checkpoint.splits}["calibrate"]
        say("Calibration", f"{len(paths)} good images that training set aside")
        return paths
    given = open_dataset(folder, checkpoint.product).train
    seen, paths = set(checkpoint.learned), list[Path]()
    for sample in given:
        digest = picture_digest(sample.path, checkpoint.geometry)
        if digest not in seen:
            seen.add(digest)  # a copy of a picture is no further one
            paths.append(sample.path)
    if not paths:
        raise CalibrationError(f"{folder}: all {len(given)} images were used in training; give others")
    say(
        "Calibration",
        f"{len(paths)} good images of {folder}; {len(given) - len(paths)} used in training, or copies, "
        "left out",
    )
    return paths


def defective_images(checkpoint: Checkpoint, folder: Path | None, say: Say) -> list[Path]:
    """Known defective parts that can be read: of `folder`, else of the data that was trained on. Empty if
    neither has any, or the data has moved: golden frames can do without them."""
    for root in (folder, checkpoint.data_root):
        try:
            test = () if root is None else open_dataset(root, checkpoint.product).test
        except (DatasetError, OSError):
            continue
        if defective := [sample.path for sample in test if sample.defective]:
            return _readable(spread(defective, _DEFECTIVE), say)
    return []


def _readable(paths: Sequence[Path], say: Say) -> list[Path]:
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
