"""Long images keep their shape, and cost what others cost."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.geometry import Size
from training.input_size import own_size, shaped, some_sizes
from training.recipe import Recipe, load_recipe

USUAL = Size(256, 256)
SIDES = st.integers(50, 6000)


@given(SIDES, SIDES)
def test_the_input_has_about_as_many_pixels_as_usual(height: int, width: int) -> None:
    own = own_size([Size(width, height)], USUAL)
    assert 0.75 * 256 * 256 <= own.width * own.height <= 1.25 * 256 * 256
    assert all(side % 32 == 0 for side in own)
    assert own_size([Size(height, width)], USUAL) == Size(own.height, own.width)


@given(st.floats(2, 9), st.integers(100, 2000))
def test_long_images_keep_their_shape(ratio: float, height: int) -> None:
    width = round(ratio * height)
    own = own_size([Size(width, height)], USUAL)
    assert abs(math.log(own.width / own.height * height / width)) < math.log(1.2)


@pytest.mark.parametrize(
    ("images", "own"),
    [
        ([Size(1250, 500)], Size(416, 160)),
        ([Size(300, 900)] * 9 + [Size(900, 300)], Size(160, 480)),
        ([Size(300, 900)] * 8 + [Size(900, 300)] * 2, USUAL),
        ([Size(400, 600), Size(400, 640)], USUAL),
        ([], USUAL),
    ],
)
def test_one_shape_is_what_nine_in_ten_agree_on(images: list[Size], own: Size) -> None:
    assert own_size(images, USUAL) == own


def test_sizes_at_the_limits() -> None:
    assert own_size([Size(300, 100)], Size(64, 32)) == Size(64, 32)
    assert max(own_size([Size(3000, 100)], Size(1024, 1024))) <= 4096


def test_a_size_on_the_command_line_is_kept_whatever_the_recipe_says(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("own_shape = true\nheight = 512\nwidth = 512\n")
    assert load_recipe(str(tmp_path / "own.toml")).own_shape
    assert not load_recipe(str(tmp_path / "own.toml"), height=128, width=128).own_shape


def test_images_are_looked_at_upright_and_a_size_that_is_named_is_kept(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((100, 300, 3), np.uint8)).save(tmp_path / "0.jpg", exif=turned)
    (tmp_path / "1.jpg").write_bytes(b"reported by whoever reads it")
    images = [tmp_path / "0.jpg", tmp_path / "1.jpg"]
    settled = shaped(load_recipe("fast"), some_sizes(images))
    assert (settled.height, settled.width, settled.own_shape) == (480, 160, False)
    assert shaped(settled, some_sizes([tmp_path / "1.jpg"])) == settled
    named = load_recipe("fast", height=128, width=128)
    assert shaped(named, some_sizes(images)) == named


def test_the_paper_s_input_is_square() -> None:
    assert not load_recipe("paper").own_shape
    assert Recipe().own_shape
