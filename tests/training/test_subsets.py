"""The division of a run's good images."""

import re
from pathlib import Path

import pytest
import torch

from training.datasets import Sample
from training.splits import Split
from training.subsets import Subset, divide, warn_of_shared_parts


@pytest.mark.parametrize(("parts", "of_each", "warned"), [(5, 4, True), (10, 2, False)])
def test_a_single_part_to_calibrate_with_is_warned_of(
    capsys: pytest.CaptureFixture[str], parts: int, of_each: int, warned: bool
) -> None:
    names = [f"{part}-{image}.png" for part in range(parts) for image in range(of_each)]
    samples = [Sample(Path(name), name) for name in names]
    divide(Subset(samples, torch.zeros(len(names), 1, 1, 3, dtype=torch.uint8)), 0, re.compile("^[0-9]"))
    assert ("the last show one part" in capsys.readouterr().out) == warned


@pytest.mark.parametrize(("count", "warned"), [(49, True), (50, False)])
def test_fewer_pictures_than_a_start_needs_are_warned_of(
    capsys: pytest.CaptureFixture[str], count: int, warned: bool
) -> None:
    samples = [Sample(Path(f"{number}.png"), f"{number}.png") for number in range(count)]
    divide(Subset(samples, torch.zeros(count, 1, 1, 3, dtype=torch.uint8)), 0, None)
    assert (f"WARNING: {count} good pictures are few: start with 50" in capsys.readouterr().out) == warned


def test_pictures_of_two_cameras_stay_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Of which each has names of its own, so that another group finds the part."""
    names = [f"{camera}-{part:02}.png" for camera in ("top7", "side") for part in range(60)]
    samples = [Sample(Path(name), name) for name in names]
    good = Subset(samples, torch.zeros(len(names), 1, 1, 3, dtype=torch.uint8))
    subsets = divide(good, 0, re.compile(r"top7-(\d+)|side-(\d+)"))
    assert "120 good pictures of 60 parts\n" in capsys.readouterr().out
    places: dict[str, set[Split]] = {}
    for name, subset in subsets.items():
        for sample in subset.samples:
            places.setdefault(sample.name[-6:], set()).add(name)
    assert [len(of_part) for of_part in places.values()] == 60 * [1]


@pytest.mark.parametrize(("pattern", "warned"), [("part-[0-9]", True), ("^side-.-part-[0-9]", False)])
def test_measuring_on_parts_that_were_learned_from_is_warned_of(
    capsys: pytest.CaptureFixture[str], pattern: str, warned: bool
) -> None:
    good = [Sample(Path(name), name) for name in ("side-a-part-1.png", "side-a-part-2.png")]
    test = [Sample(Path(name), name) for name in ("side-b-part-2.png", "side-b-part-3.png")]
    warn_of_shared_parts(good, test, re.compile(pattern))
    said = "WARNING: 1 good test pictures show parts to learn from"
    assert (said in capsys.readouterr().out) == warned
