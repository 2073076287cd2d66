"""Images that lie on their side: training reads from files what the service reads from bytes."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from service.workers.image import ImageLimits, decode_rgb
from training.datasets import DatasetError
from training.geometry import Geometry, Size, UnreadableImage
from training.images import read_rgb, upright_size
from training.masks import read_mask

LIMITS = ImageLimits(pixels=10**6, side=10**4, images=1)
STORED = [
    *(("PNG", mode, {}) for mode in ("L", "RGB", "I;16", "P", "1")),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    *(
        ("TIFF", mode, {}) for mode in ("L", "RGB", "I;16", "P", "CMYK", "RGBA")
    ),  # as these are, they are mapped
    ("TIFF", "L", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("file_format", "mode", "options"), STORED)
def test_every_orientation_is_turned_alike(
    tmp_path: Path, file_format: str, mode: str, options: dict[str, str], orientation: int
) -> None:
    path = tmp_path / "image"
    noise = np.random.default_rng(0).integers(0, 256, (9, 14)).astype(np.uint8)
    image = (
        Image.fromarray(noise * np.uint16(257)) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    )
    image.save(path, file_format, exif=exif(orientation), **options)

    read = read_rgb(path)

    assert np.array_equal(read, decode_rgb(path.read_bytes(), LIMITS))
    assert upright_size(path) == Size.of(read)
    if mode in ("L", "RGB"):
        with Image.open(BytesIO(path.read_bytes())) as stored:
            assert np.array_equal(read, np.asarray(ImageOps.exif_transpose(stored).convert("RGB")))


def test_damage_elsewhere_in_its_exif_data_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    image = np.full((9, 14), 200, np.uint8)
    # Orientation 6, then a resolution as a signed byte: Pillow reads it, but can't write it again.
    fields = bytes.fromhex("0002 0112 0003 00000001 00060000 011a 0006 00000001 ff000000 00000000")
    Image.fromarray(image).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08" + fields)
    assert read_rgb(path).shape == (14, 9, 3)
    assert decode_rgb(path.read_bytes(), LIMITS).shape == (14, 9, 3)


def test_a_mask_is_turned_as_its_image_is(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png", exif=exif(6))
    assert np.array_equal(
        read_mask(tmp_path / "mask.png", Geometry(64, 64), Size(64, 64)), np.rot90(mask, -1) > 0
    )


@pytest.mark.parametrize(
    ("background", "defect"),
    [
        ((0, 0, 0, 255), (0, 0, 3, 255)),
        ((0, 0, 0, 0), (255, 0, 0, 255)),
        ((255, 255, 255, 0), (255, 255, 255, 255)),
        ((0, 0, 0, 0), (255, 255, 255, 0)),
    ],
)
def test_a_mask_may_have_any_colour_and_alpha(
    tmp_path: Path, background: tuple[int, ...], defect: tuple[int, ...]
) -> None:
    pixels = np.full((64, 64, 4), background, np.uint8)
    pixels[8:16, 0:32] = defect
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", Geometry(64, 64), Size(64, 64)).sum() == 8 * 32


@pytest.mark.parametrize("marked", [np.uint16(1), np.int32(70_000), np.float32(0.5)])
def test_a_mask_may_have_any_depth(tmp_path: Path, marked: np.generic) -> None:
    pixels = np.zeros((64, 64), marked.dtype)
    pixels[8:16, 0:32] = marked
    Image.fromarray(pixels).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif", Geometry(64, 64), Size(64, 64)).sum() == 8 * 32


def test_a_mask_of_nothing_but_alpha_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[8:16, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(DatasetError, match=r"mask\.png: .*save it without alpha"):
        read_mask(tmp_path / "mask.png", Geometry(64, 64), Size(64, 64))


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data


def test_training_reads_no_compression_that_the_service_refuses(tmp_path: Path) -> None:
    Image.new("L", (14, 9)).save(tmp_path / "image.tif", compression="zstd")
    with pytest.raises(UnreadableImage, match=r"image\.tif: a TIFF compressed as zstd is not supported"):
        read_rgb(tmp_path / "image.tif")
