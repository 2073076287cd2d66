"""Damage drawn on good pictures: its shape, where it lies, and what counts as found."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from export.bundle.engines.engine import Prediction
from export.bundle.reading import FrameFailed
from export.bundle.scale import Scale
from export.report import show_sensitivity
from export.sensitivity import bar, sensitivity
from training.geometry import Geometry, Size

GREY = 100
GEOMETRY = Geometry(96, 64)
EVERYWHERE = np.ones((96, 64), bool)


def plain_pictures(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    for number, size in enumerate(sizes):
        Image.new("L", size, GREY).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(sizes))]


def contrast(frames: NDArray[np.uint8]) -> Prediction:
    """An engine whose score is the frame's largest difference from the undamaged grey."""
    heatmaps = np.abs(frames[..., 0].astype(np.float32) - GREY)
    return Prediction(heatmaps, heatmaps.max((1, 2)))


@given(
    width=st.floats(0.25, 8),
    length=st.floats(8, 30),
    angle=st.floats(0, np.pi),
    size=st.sampled_from([Size(64, 96), Size(300, 300), Size(900, 300)]),
)
def test_a_bar_covers_its_length_times_its_width(
    width: float, length: float, angle: float, size: Size
) -> None:
    covered = bar(Geometry(192, 224), size, (0.5, 0.5), angle, length, width)
    assert covered.min() >= 0
    assert covered.max() <= 1
    # Samples are 1/8 pixel apart, and a unit of length is up to 1.6 pixels of the stretched frame.
    assert covered.sum() == pytest.approx(length * width, rel=0, abs=(length + width) / 4)


def test_in_a_stretched_frame_a_bar_is_as_long_as_in_the_picture() -> None:
    wide, square = Size(400, 100), Geometry(224, 224)
    lying, standing = (bar(square, wide, (0.5, 0.5), angle, 40, 4) for angle in (0, np.pi / 2))
    assert lying[112].sum() == pytest.approx(20, abs=0.2)
    assert lying[:, 112].sum() == pytest.approx(8, abs=0.2)
    assert standing[112].sum() == pytest.approx(2, abs=0.2)
    assert standing[:, 112].sum() == pytest.approx(80, abs=0.2)


def test_a_bar_beyond_the_border_is_cut() -> None:
    corner = bar(Geometry(64, 64), Size(64, 64), (0, 0), 0, 20, 8)
    assert corner.sum() == pytest.approx(10 * 4)
    assert corner[:4, :10].sum() == pytest.approx(10 * 4)


def test_damage_is_found_by_the_threshold_or_inside_the_guard_band(tmp_path: Path) -> None:
    images = plain_pictures(tmp_path, (128, 192), (128, 192))

    def found(threshold: float, guard_band: float) -> list[tuple[float, ...]]:
        """Of specks of 20 and 60 grey levels, then of scratches."""
        scale = Scale(median=0, threshold=threshold)
        return list(sensitivity(contrast, images, GEOMETRY, EVERYWHERE, scale, guard_band).found.values())

    faint_speck, speck, faint_scratch, scratch = found(40, 0)
    assert faint_speck == faint_scratch == (0,) * 6
    assert speck == (1,) * 6
    assert scratch[0] == 0  # a quarter of a pixel wide
    assert scratch[3:] == (1, 1, 1)  # two pixels and more
    assert found(61, 0) == [(0,) * 6] * 4
    assert found(61, 0.01)[1] == (1,) * 6  # REVIEW: not OK


def test_an_engine_that_gives_no_number_has_found_nothing(tmp_path: Path) -> None:
    def broken(frames: NDArray[np.uint8]) -> Prediction:
        heatmap, score = contrast(frames)
        return Prediction(heatmap, np.where(score > 40, np.nan, score))

    images, scale = plain_pictures(tmp_path, (64, 96)), Scale(median=0, threshold=40)
    with pytest.raises(FrameFailed, match=r"0\.png: the engine's output for drawn damage is NaN"):
        sensitivity(broken, images, GEOMETRY, EVERYWHERE, scale, 0)


def test_damage_lies_in_the_region_of_interest_and_differs_from_dark_and_bright(tmp_path: Path) -> None:
    inside = np.zeros((96, 64), bool)
    inside[80:90, 40:50] = True
    seen = list[NDArray[np.uint8]]()

    def remember(frames: NDArray[np.uint8]) -> Prediction:
        seen.extend(frames)
        return contrast(frames)

    good = np.repeat([[0] * 32 + [255] * 32], 96, axis=0).astype(np.uint8)
    Image.fromarray(good).save(tmp_path / "good.png")
    for region in (inside, inside[:, ::-1]):
        seen.clear()
        sensitivity(remember, [tmp_path / "good.png"], GEOMETRY, region, Scale(median=0, threshold=40), 0)
        speck = seen[6 + 1][..., 0].astype(int)  # of 60 grey levels, 4 pixels long
        changed = np.argwhere(speck != good)
        assert (abs(changed - np.argwhere(region).mean(0)) <= 5 + 3).all()
        assert abs(speck - good).max() == 60


def test_lengths_are_in_pixels_of_the_median_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = plain_pictures(tmp_path, (64, 96), (256, 384), (512, 768))
    tried = sensitivity(contrast, images, GEOMETRY, EVERYWHERE, Scale(median=0, threshold=40), 0)
    assert (tried.pictures, tried.size) == (3, Size(256, 384))
    assert tried.lengths == (8, 16, 32, 64, 128, 256)
    show_sensitivity(tried)
    first, second, *rows = capsys.readouterr().out.splitlines()
    assert "drawn on 3 good pictures" in first
    assert second.split()[-9:] == ["256", "x", "384", "8", "16", "32", "64", "128", "256"]
    assert [row.split()[-6:] for row in rows[:2]] == [["0%"] * 6, ["100%"] * 6]
