"""The images of a run: read, copies left out, and divided into the three subsets."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.datasets import DatasetError, Sample, parts_of
from training.evaluate import read_samples
from training.geometry import Geometry, frame_digest
from training.loop import TrainingError
from training.splits import Split, split

_FEW = 50
"""Good images with which to start, at least."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Images in memory."""

    samples: list[Sample]
    frames: Tensor
    """uint8 RGB `[n, H, W, 3]`."""


def read_good(samples: Sequence[Sample], geometry: Geometry, skip: bool) -> tuple[Subset, Collection[str]]:
    """All good images but copies of another, and their digests: one copy could train, and another set the
    threshold. Copies are equal at the network's size, whatever else their files hold."""
    frames = np.empty((len(samples), geometry.height, geometry.width, 3), np.uint8)
    first, copies = dict[str, Sample](), list[Sample]()
    for sample, frame in _readable(samples, geometry, "good", skip):
        if first.setdefault(frame_digest(frame), sample) is sample:
            frames[len(first) - 1] = frame
        else:
            copies.append(sample)
    if copies:
        print(f"left out: {len(copies)} copies of other pictures, the first is {copies[0].name}")
    return Subset(list(first.values()), torch.from_numpy(frames[: len(first)])), first.keys()


def read_test(
    samples: Sequence[Sample], geometry: Geometry, skip: bool, good: Collection[str]
) -> tuple[Sample, ...]:
    """The readable ones. Says if some are among those with the digests `good`."""
    kept, copies = list[Sample](), list[Sample]()
    for sample, frame in _readable(samples, geometry, "test", skip):
        kept.append(sample)
        if frame_digest(frame) in good:
            copies.append(sample)
    if copies:
        print(
            f"WARNING: {len(copies)} test pictures are copies of good ones to learn from, which flatters "
            f"the figures; the first is {copies[0].name}"
        )
    return tuple(kept)


def warn_of_shared_parts(good: Sequence[Sample], test: Sequence[Sample], same_part: re.Pattern[str]) -> None:
    """Says if some good test images show parts that the `good` ones to learn from show, too."""
    measured = [sample for sample in test if not sample.defective]
    try:
        parts = parts_of([*good, *measured], same_part)
    except DatasetError:  # test images need not say which part they show
        return
    known, of_measured = set(parts[: len(good)]), parts[len(good) :]
    shared = [sample for sample, part in zip(measured, of_measured, strict=True) if part in known]
    if shared:
        print(
            f"WARNING: {len(shared)} good test pictures show parts to learn from, which flatters the "
            f"figures; the first is {shared[0].name}"
        )


def divide(good: Subset, seed: int, same_part: re.Pattern[str] | None) -> dict[Split, Subset]:
    """`good` in three, its frames reordered in place; images of one part go to the same subset.

    Raises TrainingError if they are too few or too uneven, and DatasetError if some have no part.
    """
    total = len(good.samples)
    parts = parts_of(good.samples, same_part) if same_part else None
    if parts:
        print(f"{total} good pictures of {len(set(parts))} parts")
    try:
        places = split(total, seed, parts)
    except ValueError as error:
        option = f"--same-part {same_part.pattern!r}: " if same_part else ""
        example = f"; in {good.samples[0].name} it finds {parts[0]!r}" if parts else ""
        raise TrainingError(f"{option}{error}{example}") from error
    fit, select, calibrate = map(len, places.values())
    print(f"{fit} to train, {select} to choose the score rule, {calibrate} to set the threshold")
    if parts and len({parts[place] for place in places["calibrate"]}) < 2:
        print("WARNING: the last show one part: drd-export will need pictures of others (--calibration)")
    if total < _FEW:
        print(f"WARNING: {total} good pictures are few: start with {_FEW}, better 400 or more")
    frames, order = good.frames.numpy(), list(chain(*places.values()))
    for row in range(frames.shape[1]):  # one row of all images at a time: no second copy of them
        frames[:, row] = frames[order, row]
    in_three = torch.split(good.frames, [fit, select, calibrate])
    return {
        name: Subset([good.samples[place] for place in places[name]], chunk)
        for name, chunk in zip(places, in_three, strict=True)
    }


def _readable(
    samples: Sequence[Sample], geometry: Geometry, name: str, skip: bool
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """Each sample with its frame `[H, W, 3]`. An unreadable image or mask stops the run (TrainingError), or
    is named and left out."""
    progress = tqdm(samples, f"reading {name}", unit="image", leave=False, disable=None)
    return read_samples(progress, geometry, _leave_out if skip else _stop)


def _leave_out(error: Exception) -> None:
    tqdm.write(f"left out: {error}")


def _stop(error: Exception) -> None:
    raise TrainingError(f"{error}; repair, scale down or remove it, or give --skip-unreadable") from error
