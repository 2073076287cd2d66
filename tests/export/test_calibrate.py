import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from export.bundle import Size, frame_statistics
from export.bundle.frame import FrameRanges, FrameStatistics
from export.bundle.manifest import Thresholds
from export.bundle.scale import Scale
from export.calibrate import CalibrationError, calibrate, frame_ranges
from export.conformal import conformal_threshold, is_promised, parts_needed, rejected_at_most
from export.report import show_thresholds
from training.evaluate import Scored

Frame = NDArray[np.uint8]
SENT = Size(640, 480)
EVERYWHERE = np.ones((8, 8), np.bool_)
"""The region of interest that is the whole map."""


@pytest.mark.parametrize(
    ("count", "budget", "rank"),
    [
        (99, 0.01, 1),  # the smallest number of images that guarantees 1 %
        (100, 0.01, 1),
        (198, 0.01, 1),
        (199, 0.01, 2),
        (19, 0.05, 1),
        (99, 0.29, 29),  # (99 + 1) * 0.29 is 28.999999999999996 in binary
        (10, 0.4, 4),
    ],
)
def test_threshold_is_the_kth_largest(count: int, budget: float, rank: int) -> None:
    values = list(np.random.default_rng(0).permutation(count).astype(float))
    assert is_promised(count, budget)
    assert conformal_threshold(values, budget) == count - rank


def test_without_a_guarantee_the_threshold_is_the_largest_value_plus_a_margin() -> None:
    """Four values with median 2.5; the upper half, 3 and 4, is 1 above it on average."""
    assert not is_promised(98, 0.01)
    assert conformal_threshold([4, 1, 3, 2], 0.01) == pytest.approx(4 + math.log(1 / (5 * 0.01)))


def test_the_margin_vanishes_where_the_guarantee_begins() -> None:
    values = list(range(98))
    assert 97 < conformal_threshold(values, 0.01) < 98


@given(
    values=st.lists(st.integers(-1000, 1000).map(float), min_size=3, max_size=60, unique=True),
    budget=st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.25, 0.4]),
)
def test_a_new_good_part_is_rejected_within_the_budget(values: list[float], budget: float) -> None:
    """Parts are exchangeable: each of them is equally likely to be the new one."""
    rejected = [
        value > conformal_threshold(values[:index] + values[index + 1 :], budget)
        for index, value in enumerate(values)
    ]
    if is_promised(len(values) - 1, budget):
        assert sum(rejected) <= budget * len(values)


@given(budget=st.floats(1e-6, 0.49))
def test_no_fewer_parts_than_needed_promise_a_budget(budget: float) -> None:
    needed = parts_needed(budget)
    assert is_promised(needed, budget)
    assert not is_promised(needed - 1, budget)


@given(
    values=st.lists(st.floats(-100, 100), min_size=2, max_size=50),
    budgets=st.tuples(st.floats(0.001, 0.49), st.floats(0.001, 0.49)),
)
def test_a_smaller_budget_never_lowers_the_threshold(
    values: list[float], budgets: tuple[float, float]
) -> None:
    small, large = sorted(budgets)
    assert conformal_threshold(values, small) >= conformal_threshold(values, large)


def test_calibrate_by_hand() -> None:
    """Map maxima are 10 times the scores; otherwise half of every map is 1 and the other half 3."""
    images = [scored(number, number, 10 * number) for number in range(1, 20)]
    images[-1] = replace(images[-1], source_size=Size(40, 30))
    result = calibrate(images, its_own(images), 0.05, EVERYWHERE)
    assert result.largest == 80 * 60
    assert (result.thresholds.image.median, result.thresholds.image.threshold) == (10, 19)
    assert (result.thresholds.pixel.median, result.thresholds.pixel.threshold) == (2, 190)
    assert (result.thresholds.calibration_size, result.thresholds.promised) == (19, True)
    assert result.scores[Path("7.png")] == 7


def test_the_pixel_median_is_that_of_the_region_of_interest() -> None:
    inside = EVERYWHERE.copy()
    inside[:, :4] = False
    images = [scored(number, number, 10 * number) for number in range(1, 20)]
    assert calibrate(images, its_own(images), 0.05, inside).thresholds.pixel.median == 3
    narrow = np.zeros((8, 8), np.bool_)
    narrow[1, 2] = True  # between the pixels that are usually sampled
    assert calibrate(images, its_own(images), 0.05, narrow).thresholds.pixel.median == 1


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([], "images of 0 parts are not enough"),
        ([1.0], "images of 1 parts are not enough"),
        ([2.0, 2.0, 2.0], "no higher than the usual one"),
        ([2.0, 2.0, 2.0000002], "no higher than the usual one"),
        ([5e-8, 1e-7, 2e-7], "no higher than the usual one"),
        ([20_000, 20_000, 20_000.2], "no higher than the usual one"),
    ],
)
def test_too_few_or_too_alike_images_are_refused(scores: Sequence[float], reason: str) -> None:
    images = [scored(number, score, peak=9) for number, score in enumerate(scores)]
    with pytest.raises(CalibrationError, match=reason):
        calibrate(images, its_own(images), 0.1, EVERYWHERE)


def test_a_part_with_most_of_the_images_is_refused() -> None:
    images = [scored(number, 3 if number < 40 else 2, peak=9) for number in range(60)]
    parts = {image.path: str(max(39, number)) for number, image in enumerate(images)}
    with pytest.raises(CalibrationError, match="about as many of each"):
        calibrate(images, parts, 0.2, EVERYWHERE)


def test_each_part_counts_once_with_its_highest_score() -> None:
    """Five images of each of 19 parts: as much is promised, and as little rejected, as with one of each."""
    images = [scored(number, number // 5 + number % 5 / 10, peak=number) for number in range(95)]
    parts = {image.path: str(number // 5) for number, image in enumerate(images)}
    result = calibrate(images, parts, 0.05, EVERYWHERE)
    assert (result.thresholds.calibration_size, result.thresholds.promised) == (19, True)
    assert (result.thresholds.image.threshold, result.thresholds.pixel.threshold) == (18.4, 94)
    assert result.thresholds.image.median == 9.2  # of all images
    assert not calibrate(images, parts, 0.01, EVERYWHERE).thresholds.promised
    assert calibrate(images, its_own(images), 0.05, EVERYWHERE).thresholds.image.threshold < 18.4


def its_own(images: Sequence[Scored]) -> dict[Path, str]:
    """Each image shows another part."""
    return {image.path: str(image.path) for image in images}


def textured(seed: int, level: float = 110, amplitude: float = 40) -> Frame:
    """A part with smooth texture and sensor noise, under a lamp of slightly varying brightness."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(-1, 1, (16, 16)).astype(np.float32))
    texture = np.asarray(coarse.resize((128, 128), Image.Resampling.BICUBIC))
    lamp = rng.uniform(0.9, 1.1)
    grey = lamp * (level + amplitude * texture) + rng.normal(0, 3, (128, 128))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@cache
def ranges() -> FrameRanges:
    return frame_ranges([frame_statistics(textured(seed), SENT) for seed in range(100)])


def unfamiliar(frame: Frame, source_size: Size = SENT) -> tuple[str, ...]:
    return ranges().unfamiliar(frame_statistics(frame, source_size))


@pytest.mark.parametrize(
    ("seen", "low", "high"),
    [  # brightness, contrast, sharpness, aspect
        ([(0.5, 0.2, 0.04, 1.0)], (0.4, 0.1, 0.04 / 1.5, 1 / 1.02), (0.6, 0.4, 0.06, 1.02)),
        (
            [(0.4, 0.1, 0.01, 1.0), (0.8, 0.9, 0.09, 2.0)],
            (0.2, 0.1 / 3, 0.01 / 3, 1 / 1.02),
            (1.0, 2.7, 0.27, 2.04),
        ),
    ],
)
def test_ranges_by_hand(
    seen: list[tuple[float, ...]], low: tuple[float, ...], high: tuple[float, ...]
) -> None:
    """Half of what was seen is added on either side, of contrast and sharpness by their ratio."""
    ranges = frame_ranges([FrameStatistics(*each) for each in seen])
    found = [ranges.brightness, ranges.contrast, ranges.sharpness, ranges.aspect]
    assert [one.low for one in found] == pytest.approx(low)
    assert [one.high for one in found] == pytest.approx(high)


def test_usual_parts_are_never_unfamiliar() -> None:
    assert {unfamiliar(textured(1000 + seed)) for seed in range(100)} == {()}


def test_a_part_with_a_defect_is_not_unfamiliar() -> None:
    frame = textured(7)
    frame[40:60, 30:60] = 250
    assert unfamiliar(frame) == ()


@pytest.mark.parametrize(
    ("spoil", "statistic"),
    [
        (np.zeros_like, "brightness"),  # covered lens
        (lambda frame: (frame * 0.3).astype(np.uint8), "brightness"),  # dead lamp
        (lambda frame: (frame * 3.0).clip(0, 255).astype(np.uint8), "brightness"),  # overexposed
        (lambda frame: np.full_like(frame, 110), "contrast"),  # no part in the picture
        (
            lambda frame: np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(4))),
            "sharpness",
        ),
    ],
)
def test_spoiled_frames_are_unfamiliar(spoil: Callable[[Frame], Frame], statistic: str) -> None:
    assert statistic in unfamiliar(spoil(textured(7)))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_uniform_frame_that_calibration_saw_is_not_unfamiliar(level: int) -> None:
    seen = [
        frame_statistics(frame, Size(64, 64))
        for frame in (np.full((64, 64, 3), level, np.uint8), textured(1))
    ]
    assert [frame_ranges(seen).unfamiliar(statistics) for statistics in seen] == [(), ()]


def test_an_image_of_another_shape_is_unfamiliar() -> None:
    assert unfamiliar(textured(7), Size(480, 640)) == ("aspect",)
    assert unfamiliar(textured(7), Size(645, 480)) == ()


def test_pictures_of_two_shapes_allow_no_third() -> None:
    seen = [frame_statistics(textured(1), size) for size in (Size(400, 400), Size(600, 400))]
    third = frame_statistics(textured(1), Size(640, 400))
    assert [frame_ranges(seen).unfamiliar(each) for each in (*seen, third)] == [(), (), ("aspect",)]


def scored(number: int, score: float, peak: float) -> Scored:
    heatmap = np.ones((8, 8), np.float32)
    heatmap[:, 4:] = 3
    heatmap[1, 1] = peak  # not on the grid that the median is computed on
    return Scored(Path(f"{number}.png"), Size(80, 60), textured(number), heatmap, score)


def no_promise(count: int, budget: float) -> Thresholds:
    scale = Scale(median=0.0, threshold=1.0)
    return Thresholds(
        image=scale, pixel=scale, calibration_size=count, max_false_reject=budget, promised=False
    )


@pytest.mark.parametrize(("count", "budget", "most"), [(100, 0.01, 0.0295), (400, 0.01, 0.0193)])
def test_what_a_promise_is_worth_with_95_percent_confidence(count: int, budget: float, most: float) -> None:
    assert rejected_at_most(count, budget) == pytest.approx(most, abs=1e-4)


@pytest.mark.parametrize(
    ("budget", "text"), [(0.29, "29.00%"), (0.001, "0.10%"), (0.00014, "0.014%"), (1e-6, "0.00010%")]
)
def test_a_small_budget_is_not_shown_as_0(
    budget: float, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_thresholds(no_promise(100, budget))
    assert f" at most {text} of good parts NG; REVIEW comes on top\n" in capsys.readouterr().out


def test_a_bound_is_rounded_up(capsys: pytest.CaptureFixture[str]) -> None:
    show_thresholds(no_promise(100, 0.001))
    out = capsys.readouterr().out
    assert "100 calibration parts guarantee 1.00% at best" in out  # it is 0.990099 %
    assert "--calibration" in out
