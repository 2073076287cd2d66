"""The region of interest: its mask, invalid files, and its effect in the graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.bundle import Bundle
from export.cli import main
from export.roi import RoiError, read_roi
from training.geometry import Geometry

SIZE = Geometry(64, 96)
LEFT = {"unit": "fraction", "shapes": [{"rectangle": [0, 0, 0.5, 1]}]}


def drawn(tmp_path: Path, facts: dict[str, Any]) -> Path:
    path = tmp_path / "roi.json"
    path.write_text(json.dumps(facts))
    return path


def save_images(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    """Images of these sizes, width first."""
    for number, size in enumerate(sizes):
        Image.new("L", size).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(sizes))]


def test_a_region_drawn_for_images_of_another_shape_is_refused(tmp_path: Path) -> None:
    facts = {"unit": "pixel", "image_size": [200, 300], "shapes": [{"rectangle": [75, 100, 25, 50]}]}
    with pytest.raises(RoiError, match="image_size is 200 × 300, but the product's pictures are 300 × 200"):
        read_roi(drawn(tmp_path, facts), SIZE).check_shape(save_images(tmp_path, (300, 200)))


@pytest.mark.parametrize(
    "facts",
    [
        {"unit": "fraction", "shapes": [{"rectangle": [0.25, 0.5, 0.5, 0.25]}]},
        {"unit": "pixel", "image_size": [300, 200], "shapes": [{"rectangle": [75, 100, 150, 50]}]},
        {"unit": "fraction", "shapes": [{"polygon": [[0.25, 0.5], [0.75, 0.5], [0.75, 0.75], [0.25, 0.75]]}]},
        {
            "unit": "fraction",
            "shapes": [{"rectangle": [0.25, 0.5, 0.25, 0.25]}, {"rectangle": [0.5, 0.5, 0.25, 0.25]}],
        },
    ],
)
def test_the_same_region_in_four_ways(tmp_path: Path, facts: dict[str, Any]) -> None:
    roi = read_roi(drawn(tmp_path, facts), SIZE)
    roi.check_shape(save_images(tmp_path, (40, 20), (60, 40)))
    expected = np.zeros((64, 96), bool)
    expected[32:48, 24:72] = True
    np.testing.assert_array_equal(roi.mask, expected)
    assert roi.region.share == pytest.approx(1 / 8)
    assert roi.region.polygons[0][0] == (0.25, 0.5)


def test_a_rectangle_over_the_whole_image_masks_nothing(tmp_path: Path) -> None:
    facts = {"unit": "fraction", "shapes": [{"rectangle": [0, 0, 1, 1]}]}
    assert read_roi(drawn(tmp_path, facts), SIZE).mask.all()


def test_half_a_square_is_a_triangle(tmp_path: Path) -> None:
    facts = {"unit": "fraction", "shapes": [{"polygon": [[0, 0], [1, 0], [0, 1]]}]}
    roi = read_roi(drawn(tmp_path, facts), Geometry(64, 64))
    assert roi.region.share == pytest.approx(0.5, abs=0.01)
    assert roi.mask[0, :62].all()
    assert not roi.mask[62:, 2:].any()


def test_a_pixel_counts_if_half_of_it_is_covered(tmp_path: Path) -> None:
    left, top, right, bottom = 9.6, 12.6, 63.6, 31.4  # in pixels of the network's input
    corners = [
        [left / 96, top / 64],
        [right / 96, top / 64],
        [right / 96, bottom / 64],
        [left / 96, bottom / 64],
    ]
    expected = np.zeros((64, 96), bool)
    expected[13:31, 10:64] = True
    roi = read_roi(drawn(tmp_path, {"unit": "fraction", "shapes": [{"polygon": corners}]}), SIZE)
    np.testing.assert_array_equal(roi.mask, expected)


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = drawn(tmp_path, LEFT)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_roi(path, SIZE).region.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"unit": "fraction", "shapes": []}, "shapes"),
        ({"unit": "fraction", "shapes": [{"rectangle": [0.8, 0, 0.5, 1]}]}, "the corner 1.3, 0 lies outside"),
        (
            {
                "unit": "pixel",
                "image_size": [300, 200],
                "shapes": [{"polygon": [[0, 0], [300, 0], [0, 201]]}],
            },
            "the corner 0, 201 lies outside",
        ),
        ({"unit": "fraction", "shapes": [{"rectangle": [0.5, 0.5, 1e-4, 1e-4]}]}, "cover nothing"),
        ({"unit": "fraction", "shapes": [{"polygon": [[0, 0], [1, 1]]}]}, "shapes.0.polygon: "),
        (
            {"unit": "fraction", "shapes": [{"polygon": [[0, 0], [1, "a"], [1, 1]]}]},
            "shapes.0.polygon.1.1: ",
        ),
        ({"unit": "fraction", "shapes": [{"rectangle": [0, 0, -1, 1]}]}, "shapes.0.rectangle.2: "),
        ({"unit": "fraction", "shapes": [{}]}, "shapes.0: either a rectangle or a polygon"),
        (
            {"unit": "pixel", "shapes": [{"rectangle": [0, 0, 1, 1]}]},
            "image_size is required with the unit pixel",
        ),
        (LEFT | {"image_size": [300, 200]}, "image_size is required with the unit pixel"),
        (LEFT | {"exclude": []}, "exclude"),
        ({"unit": "inch", "shapes": LEFT["shapes"]}, "unit"),
    ],
)
def test_an_invalid_region_is_refused(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    path = drawn(tmp_path, facts)
    with pytest.raises(RoiError) as caught:
        read_roi(path, SIZE)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_outside_the_region_the_map_is_zero(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    """A defect on the right changes the map of a bundle for the whole picture, but not for its left half."""
    models = tmp_path / "models"
    options = ["--to", str(models), "--max-false-reject", "0.1", "--engines", "onnx-f32"]
    assert main([str(checkpoint), *options, "--roi", str(drawn(tmp_path, LEFT))]) == 0
    everything, left = Bundle.open(exported), Bundle.open(models / "plate/1")
    assert everything.manifest.roi is None
    assert left.manifest.roi is not None
    assert left.manifest.roi.share == pytest.approx(0.5)
    plain = np.random.default_rng(0).integers(90, 130, (1, 64, 64, 3), np.uint8)
    damaged = plain.copy()
    damaged[:, 20:40, 40:60] = 255
    maps = left.start().predict(plain).heatmap
    assert maps[:, :, :32].any()
    assert not maps[:, :, 32:].any()
    assert not left.start().predict(damaged).heatmap[:, :, 32:].any()
    assert everything.start("onnx-f32").predict(damaged).heatmap[:, :, 32:].any()


def test_a_missing_file_is_found_at_once(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--to", str(tmp_path / "models"), "--roi", str(tmp_path / "no.json")]) == 1
    output = capsys.readouterr()
    assert "no.json: the region of interest can't be read: No such file" in output.err
    assert output.out == ""
