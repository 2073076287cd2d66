"""Verdicts, regions, pictures. Maps are 32 x 32; thresholds are 0.5 raw, so raw values up to 0.5 are
scores."""

import math
from dataclasses import astuple
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from export.bundle import (
    Bundle,
    FrameFailed,
    FrameStatistics,
    Size,
    frame_statistics,
    heatmap_png,
    mask_png,
    overlay_png,
    read,
)
from export.bundle.frame import FrameRanges, Range
from export.bundle.manifest import Manifest
from export.bundle.reading import find_regions
from tests.bundles import ANYTHING, make_bundle, plain_frame

SOURCE = Size(640, 320)
STATISTICS = FrameStatistics(0.5, 0.1, 0.1, 2.0)
Map = NDArray[np.float32]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("models"))).manifest


def flat(level: float = 0.1) -> Map:
    return np.full((32, 32), level, np.float32)


def with_block(level: float = 0.8) -> Map:
    """A block of 4 rows from row 8 and 6 columns from column 20."""
    heatmap = flat()
    heatmap[8:12, 20:26] = level
    return heatmap


def verdict(manifest: Manifest, heatmap: Map, score: float, guard_band: float = 0.0) -> tuple[str, str]:
    finding, _ = read(heatmap, score, STATISTICS, manifest, guard_band, SOURCE)
    return finding.verdict, finding.reason


@pytest.mark.parametrize(
    ("score", "guard_band", "expected"),
    [
        (0.49, 0.0, ("OK", "")),
        (0.50, 0.0, ("REVIEW", "guard_band")),
        (0.51, 0.0, ("NG", "")),
        (0.485, 0.01, ("OK", "")),
        (0.495, 0.01, ("REVIEW", "guard_band")),
        (0.505, 0.01, ("REVIEW", "guard_band")),
        (0.52, 0.01, ("NG", "")),
    ],
)
def test_verdict_by_score_and_guard_band(
    manifest: Manifest, score: float, guard_band: float, expected: tuple[str, str]
) -> None:
    assert verdict(manifest, with_block(), score, guard_band) == expected


@given(score=st.floats(0, 10), deviation=st.floats(-1, 1), guard_band=st.floats(1e-6, 0.02))
def test_no_deviation_within_half_the_guard_band_reverses_a_verdict(
    manifest: Manifest, score: float, deviation: float, guard_band: float
) -> None:
    scale = manifest.thresholds.image
    other_score = scale.score(score) + deviation * guard_band / 2
    other_raw = other_score if other_score <= 0.5 else 0.25 / (1 - min(other_score, 1 - 1e-9))
    verdicts = {verdict(manifest, with_block(), raw, guard_band)[0] for raw in (score, other_raw)}
    assert verdicts != {"OK", "NG"}


def test_an_over_threshold_part_with_too_small_a_region_is_for_review(manifest: Manifest) -> None:
    """The block is 4 x 6 cells of 10 x 20 pixels: 4800 pixels of the sent image."""
    for min_area, expected in [(4800, ("NG", "")), (4801, ("REVIEW", "small_region"))]:
        strict = manifest.model_copy(update={"min_area": min_area})
        assert verdict(strict, with_block(), 0.9) == expected
        assert verdict(strict, flat(), 0.1) == ("OK", "")
    assert verdict(manifest.model_copy(update={"min_area": 1}), flat(), 0.9) == ("REVIEW", "small_region")


@pytest.mark.parametrize("statistic", FrameRanges.model_fields)
@pytest.mark.parametrize("score", [0.1, 0.9])
def test_an_unfamiliar_frame_is_for_review(manifest: Manifest, statistic: str, score: float) -> None:
    beyond = Range(low=2.5, high=3.0)
    strict = manifest.model_copy(update={"frame_ranges": ANYTHING.model_copy(update={statistic: beyond})})
    assert verdict(strict, with_block(), score) == ("REVIEW", "unlike_training")
    finding, _ = read(with_block(), score, STATISTICS, strict, 0.0, SOURCE)
    assert finding.unfamiliar == (statistic,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_give_a_verdict(manifest: Manifest, bad: float) -> None:
    with pytest.raises(FrameFailed):
        read(flat(), bad, STATISTICS, manifest, 0.0, SOURCE)
    heatmap = flat()
    heatmap[3, 3] = bad
    with pytest.raises(FrameFailed):
        read(heatmap, 0.1, STATISTICS, manifest, 0.0, SOURCE)


def test_regions_are_in_pixels_of_the_sent_image(manifest: Manifest) -> None:
    finding, _ = read(with_block(), 0.9, STATISTICS, manifest, 0.0, SOURCE)
    (region,) = finding.regions
    assert (region.x, region.y, region.width, region.height, region.area) == (400, 80, 120, 40, 4800)
    assert region.peak == pytest.approx(manifest.thresholds.pixel.score(0.8))


def test_regions_come_by_falling_peak_and_touch_diagonally(manifest: Manifest) -> None:
    heatmap = flat()
    heatmap[2, 2] = heatmap[3, 3] = 0.6
    heatmap[20, 20] = 0.9
    finding, _ = read(heatmap, 0.9, STATISTICS, manifest, 0.0, Size(32, 32))
    assert [(region.x, region.y, region.area) for region in finding.regions] == [(20, 20, 1), (2, 2, 2)]


def test_ng_without_a_region_reports_the_peak(manifest: Manifest) -> None:
    heatmap = flat()
    heatmap[8, 20] = 0.3
    finding, _ = read(heatmap, 0.9, STATISTICS, manifest, 0.0, SOURCE)
    (region,) = finding.regions
    assert (region.x, region.y, region.width, region.height, region.area) == (400, 80, 20, 10, 200)
    assert region.peak == pytest.approx(0.3)
    finding, _ = read(heatmap, 0.1, STATISTICS, manifest, 0.0, SOURCE)
    assert finding.regions == ()


@given(width=st.integers(32, 200), height=st.integers(32, 200), seed=st.integers(0, 2**16))
def test_regions_and_mask_agree(width: int, height: int, seed: int) -> None:
    pixel_scores = np.random.default_rng(seed).random((32, 32)).astype(np.float32) ** 4
    mask = decoded(mask_png(pixel_scores, Size(width, height)))
    assert mask.shape == (height, width)
    regions = find_regions(pixel_scores, Size(width, height))
    assert sum(region.area for region in regions) == mask.sum()
    for region in regions:
        box = mask[region.y : region.y + region.height, region.x : region.x + region.width]
        assert box.any(axis=0).all()
        assert box.any(axis=1).all()


@given(power=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_regions_are_those_of_scipy(power: int, seed: int) -> None:
    pixel_scores = np.random.default_rng(seed).random((24, 40)).astype(np.float32) ** power
    labels, count = ndimage.label(pixel_scores >= 0.5, structure=np.ones((3, 3)))
    expected = [
        (x.start, y.start, x.stop - x.start, y.stop - y.start, np.sum(labels == label))
        for label, (y, x) in enumerate(filter(None, ndimage.find_objects(labels)), 1)
    ]
    peaks = ndimage.maximum(pixel_scores, labels, np.arange(1, count + 1))
    found = find_regions(pixel_scores, Size(40, 24))
    by_peak = np.argsort(-np.asarray(peaks), kind="stable")
    assert [astuple(region) for region in found] == [(*expected[i], peaks[i]) for i in by_peak]


@given(width=st.integers(1, 32), height=st.integers(1, 32), row=st.integers(0, 31), column=st.integers(0, 31))
def test_a_region_is_visible_in_a_picture_smaller_than_the_map(
    width: int, height: int, row: int, column: int
) -> None:
    heatmap = flat()
    heatmap[row, column] = 1.0
    (region,) = find_regions(heatmap, Size(width, height))
    assert region.area >= 1
    assert 0 <= region.x < region.x + region.width <= width
    assert 0 <= region.y < region.y + region.height <= height


def test_128_and_above_is_over_the_threshold() -> None:
    half = np.float32(0.5)
    values = np.array([[0, np.nextafter(half, np.float32(0)), half, 1]], np.float32)
    assert decoded(heatmap_png(values)).tolist() == [[0, 127, 128, 255]]
    assert decoded(mask_png(values, Size(4, 1))).tolist() == [[False, False, True, True]]


def test_a_pixel_at_the_threshold_is_in_a_region_as_in_the_mask() -> None:
    pixel_scores = flat()
    pixel_scores[3, 5] = 0.5
    (region,) = find_regions(pixel_scores, Size(32, 32))
    assert astuple(region) == (5, 3, 1, 1, 1, 0.5)
    assert decoded(mask_png(pixel_scores, Size(32, 32))).sum() == 1


def test_pictures_have_the_documented_sizes_and_bit_depths(manifest: Manifest) -> None:
    _, pixel_scores = read(with_block(), 0.9, STATISTICS, manifest, 0.0, SOURCE)
    rgb = np.full((320, 640, 3), 60, np.uint8)
    pictures = [heatmap_png(pixel_scores), mask_png(pixel_scores, SOURCE), overlay_png(rgb, pixel_scores)]
    images = [Image.open(BytesIO(picture)) for picture in pictures]
    assert [image.format for image in images] == ["PNG"] * 3
    assert [image.mode for image in images] == ["L", "1", "RGB"]
    assert [image.size for image in images] == [(32, 32), SOURCE, SOURCE]


def test_the_overlay_is_warm_where_the_defect_is_and_untouched_elsewhere(manifest: Manifest) -> None:
    _, pixel_scores = read(with_block(), 0.9, STATISTICS, manifest, 0.0, SOURCE)
    overlay = decoded(overlay_png(np.full((320, 640, 3), 60, np.uint8), pixel_scores))
    red, _, blue = overlay[100, 460].astype(int)
    assert red - blue > 50
    assert (overlay[250:, :300] == 60).all()


def test_statistics_by_hand() -> None:
    halves = plain_frame(0, (4, 4))
    halves[:, 2:] = 255
    statistics = frame_statistics(halves, Size(1280, 960))
    assert statistics.brightness == pytest.approx(0.5)
    assert statistics.contrast == pytest.approx(0.5)
    assert statistics.sharpness == pytest.approx(1.0)  # each inner pixel has one neighbour across the edge
    assert statistics.aspect == pytest.approx(4 / 3)


@pytest.mark.parametrize("size", [(4, 8), (8, 4)])
def test_sharpness_of_a_frame_that_is_not_square(size: tuple[int, int]) -> None:
    halves = plain_frame(0, size)
    halves[:, size[1] // 2 :] = 255
    inner_columns = size[1] - 2
    assert frame_statistics(halves, Size(64, 64)).sharpness == pytest.approx(2 / inner_columns)


def decoded(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(png)))
