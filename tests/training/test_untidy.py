"""Folders as people have them: nothing in them is taken for something else, and nothing dropped unsaid."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.datasets import DatasetError, open_dataset
from training.evaluate import Scored, evaluate
from training.geometry import Geometry, Size

GEOMETRY = Geometry(32, 32)


def picture(path: Path, *, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:8] = 255 if mask else 90
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A product in the layout of MVTec AD, with one picture of each."""
    picture(tmp_path / "train/good/000.png")
    picture(tmp_path / "test/good/000.png")
    picture(tmp_path / "test/crack/000.png")
    picture(tmp_path / "ground_truth/crack/000_mask.png", mask=True)
    return tmp_path


def test_hidden_files_and_folders_are_not_data(root: Path) -> None:
    picture(root / "test/.ipynb_checkpoints/000-checkpoint.png")
    picture(root / "ground_truth/.ipynb_checkpoints/000-checkpoint.png")
    (root / "train/good/._000.png").write_bytes(b"what macOS leaves")
    assert str(open_dataset(root)).endswith("1 good to learn from, test 1 good and 1 defective, 1 masks")


def test_what_lies_among_the_good_images_is_named(root: Path) -> None:
    picture(root / "train/good/tuesday/000.png")
    (root / "train/good/001.webp").write_bytes(b"")
    assert open_dataset(root).left_out == "1 subfolders with pictures and 1 files of other suffixes"


def test_what_is_not_measured_is_named(root: Path) -> None:
    picture(root / "test/crack/tuesday/000.png")
    picture(root / "test/001.png")
    (root / "train/good/002.png").symlink_to("/nowhere/002.png")
    assert open_dataset(root).left_out == (
        "1 links to what is not there; 1 pictures in test itself; 1 subfolders with pictures in test/crack"
    )


@pytest.mark.parametrize("name", ["test", "ground_truth"])
def test_a_folder_in_capitals_is_no_other_one(root: Path, name: str) -> None:
    (root / name).rename(root / name.title())
    with pytest.raises(DatasetError, match=f"{name.title()}: rename it to {name}"):
        open_dataset(root)


@pytest.mark.parametrize("name", [r"train\good\000.png", r"train/good/a\000.png"])
def test_backslashes_in_names_are_refused(tmp_path: Path, name: str) -> None:
    """Defects would lie among what is learned from."""
    picture(tmp_path / name)
    with pytest.raises(DatasetError, match=r"000\.png: a backslash in the name.*`unzip`, or rename the file"):
        open_dataset(tmp_path)


def test_masks_of_no_kind_are_refused(root: Path) -> None:
    (root / "ground_truth/crack").rename(root / "ground_truth/Crack")
    with pytest.raises(DatasetError, match=r"ground_truth/Crack: there is no folder test/Crack"):
        open_dataset(root)


def test_folders_of_masks_that_nothing_needs_are_no_mistake(root: Path) -> None:
    (root / "ground_truth/scratch").mkdir()
    for name in ("000.png", "000_mask.png"):
        picture(root / "ground_truth/good" / name)
    shutil.rmtree(root / "test/good")
    assert len(open_dataset(root).test) == 1
    shutil.rmtree(root / "test")
    assert open_dataset(root).test == ()


def test_a_picture_does_not_have_two_masks(root: Path) -> None:
    picture(root / "ground_truth/crack/000.png")
    with pytest.raises(DatasetError, match=r"crack/000\.png and 000_mask\.png: two masks for one picture"):
        open_dataset(root)


def test_two_pictures_do_not_share_a_mask(root: Path) -> None:
    picture(root / "test/crack/000.bmp")
    with pytest.raises(DatasetError, match=r"test/crack: two pictures differ in their suffix only"):
        open_dataset(root)


def test_a_folder_whose_own_name_is_not_utf_8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")
    picture(folder / "000.png")
    monkeypatch.chdir(folder)
    with pytest.raises(DatasetError, match="the name is not UTF-8"):
        open_dataset(Path())


def test_good_images_with_empty_masks_count_as_good_pixels(tmp_path: Path) -> None:
    rows = ["object,split,label,image,mask", "bolt,train,normal,0.png,"]
    for number, label in enumerate(("normal", "normal", "anomaly"), 1):
        picture(tmp_path / f"{number}.png")
        Image.fromarray(np.uint8(255 * (label == "anomaly")) * np.ones((32, 32), np.uint8)).save(
            tmp_path / f"{number}m.png"
        )
        rows.append(f"bolt,test,{label},{number}.png,{number}m.png")
    picture(tmp_path / "0.png")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(rows))
    samples = open_dataset(tmp_path, "bolt").test

    heat = [np.full((32, 32), 0.1 if sample.defective else 0.9, np.float32) for sample in samples]
    frame = np.zeros((32, 32, 3), np.uint8)
    results = [
        Scored(s.path, Size(32, 32), frame, h, float(h[0, 0])) for s, h in zip(samples, heat, strict=True)
    ]
    quality = evaluate(samples, results, GEOMETRY).quality

    assert quality.pixel_auroc == 0
    assert quality.n_masks_lost is None
