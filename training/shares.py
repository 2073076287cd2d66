"""The pictures of a run: read, copies left out, and divided into the three shares."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.datasets import DatasetError, Sample, read_mask
from training.geometry import Geometry, UnreadableImage, frame_digest, read_rgb
from training.loop import TrainingError
from training.splits import Split, split

_FEW = 50
"""Good pictures with which to start, at least."""


@dataclass(frozen=True, slots=True)
class Share:
    samples: list[Sample]
    pixels: Tensor
    """uint8 RGB `[n, H, W, 3]`."""


def read_good(samples: Sequence[Sample], geometry: Geometry, skip: bool) -> tuple[Share, Collection[str]]:
    """All good pictures but copies of another, and their digests: one copy could train, and another set the
    threshold. Copies are equal at the network's size, whatever else their files hold."""
    pixels = np.empty((len(samples), geometry.height, geometry.width, 3), np.uint8)
    first, copies = dict[str, Sample](), list[Sample]()
    for sample, frame in _readable(samples, geometry, "good", skip):
        if first.setdefault(frame_digest(frame), sample) is sample:
            pixels[len(first) - 1] = frame
        else:
            copies.append(sample)
    if copies:
        print(f"left out: {len(copies)} copies of other pictures, the first is {copies[0].name}")
    return Share(list(first.values()), torch.from_numpy(pixels[: len(first)])), first.keys()


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


def divide(good: Share, seed: int, same_part: re.Pattern[str] | None) -> dict[Split, Share]:
    """The shares of `good`, whose pixels are reordered in place; pictures of one part go to the same.

    Raises TrainingError if they are too few or too uneven.
    """
    total = len(good.samples)
    parts = _parts(good.samples, same_part) if same_part else None
    try:
        places = split(range(total), seed, parts.__getitem__ if parts else None)
    except ValueError as error:
        option = f"--same-part {same_part.pattern!r}: " if same_part else ""
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
        name: Share([good.samples[place] for place in places[name]], share)
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
