"""Image files: none that the service would refuse, and errors that name the file."""

import io
import struct
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from service.settings import Settings
from training.geometry import Size, UnreadableImage
from training.images import MAX_IMAGE_PIXELS, read_rgb, upright_size


@pytest.mark.parametrize("size", [(8000, 5001), (10_000, 9_500), (20_000, 10_000)])
def test_images_that_the_service_would_refuse_as_too_large(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("1", size).save(tmp_path / "large.png")
    with pytest.raises(UnreadableImage, match=r"large\.png: more than 40 million pixels"):
        read_rgb(tmp_path / "large.png")
    assert Settings.model_fields["max_image_pixels"].default == MAX_IMAGE_PIXELS == 40_000_000


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    noise, whole = Image.effect_noise((20, 12), 64), io.BytesIO()
    noise.resize((200, 200)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-500])
    noise.save(tmp_path / "other.gif")
    for name in ("notes.png", "cut.jpg", "other.gif", "missing.png"):
        with pytest.raises(UnreadableImage, match=name):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize("orientation", [*range(10), "6"])
def test_the_size_of_an_image_on_its_side_is_known_from_its_head(
    tmp_path: Path, orientation: int | str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = int(orientation)
    content = exif.tobytes()
    if isinstance(orientation, str):  # which no camera should write: as text
        number, text = struct.pack(">HIHH", 3, 1, 6, 0), struct.pack(">HI4s", 2, 2, b"6")
        assert number in content
        content = content.replace(number, text)
    Image.new("RGB", (40, 30)).save(tmp_path / "p.jpg", exif=content)
    assert upright_size(tmp_path / "p.jpg") == Size.of(read_rgb(tmp_path / "p.jpg"))
