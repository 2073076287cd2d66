"""The layouts of the field, on small trees of the same shape."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.datasets import DatasetError, Sample, open_dataset, parts_of
from training.geometry import Geometry, Size
from training.masks import read_mask


def save_image(path: Path, size: tuple[int, int] = (40, 32), value: int = 90, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.name for sample in samples]


def test_mvtec_ad(tmp_path: Path) -> None:
    root = tmp_path / "bottle"
    for name in ("001.png", "000.png"):
        save_image(root / "train/good" / name)
    save_image(root / "test/good/000.png")
    save_image(root / "test/crack/000.png")
    save_image(root / "ground_truth/crack/000_mask.png", mode="L")
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.product) == ("MVTec AD", "bottle")
    assert names(dataset.train) == ["train/good/000.png", "train/good/001.png"]
    crack, good = dataset.test
    assert (crack.kind, crack.defective, good.kind, good.mask) == ("crack", True, "good", None)
    assert crack.mask == root / "ground_truth/crack/000_mask.png"
    assert "MVTec AD layout, 2 good to learn from, test 1 good and 1 defective, 1 masks" in str(dataset)


def test_mvtec_layout_without_any_mask_is_image_level_only(tmp_path: Path) -> None:
    save_image(tmp_path / "train/good/0.png")
    save_image(tmp_path / "test/bad/0.png")
    assert [sample.mask for sample in open_dataset(tmp_path).test] == [None]


def test_a_single_missing_mask_is_named(tmp_path: Path) -> None:
    save_image(tmp_path / "train/good/0.png")
    for name in ("0.png", "1.png"):
        save_image(tmp_path / "test/crack" / name)
    save_image(tmp_path / "ground_truth/crack/0_mask.png", mode="L")
    with pytest.raises(DatasetError, match=r"1\.png"):
        open_dataset(tmp_path)


def test_btad_with_mixed_suffixes(tmp_path: Path) -> None:
    root = tmp_path / "03"
    save_image(root / "train/ok/0000.bmp")
    save_image(root / "test/ok/0001.bmp")
    save_image(root / "test/ko/0002.bmp")
    save_image(root / "ground_truth/ko/0002.png", mode="L")
    dataset = open_dataset(root)
    assert dataset.layout == "BTAD"
    assert [(s.kind, s.mask) for s in dataset.test] == [
        ("ko", root / "ground_truth/ko/0002.png"),
        ("good", None),
    ]


@pytest.mark.parametrize(("train", "test"), [("good", "Good"), ("good", "ok"), ("ok", "good"), ("ok", "OK")])
def test_a_test_folder_of_good_images_by_another_word(train: str, test: str, tmp_path: Path) -> None:
    save_image(tmp_path / "train" / train / "0.png")
    save_image(tmp_path / "test" / test / "1.png")
    assert [sample.defective for sample in open_dataset(tmp_path).test] == [False]


def test_good_and_defective_parts_in_a_folder_each(tmp_path: Path) -> None:
    for number in range(11):
        save_image(tmp_path / "OK" / f"{number:02}.png")
    save_image(tmp_path / "NG/0.png")
    save_image(tmp_path / "scratch/0.bmp")
    save_image(tmp_path / "ground_truth/scratch/0.png", mode="L")
    dataset = open_dataset(tmp_path, "gasket")
    assert (dataset.layout, dataset.product, dataset.left_out) == ("good and defective", "gasket", "")
    assert names(dataset.train) == [f"OK/{number:02}.png" for number in range(9)]
    assert [(sample.name, sample.kind) for sample in dataset.test] == [
        ("OK/09.png", "good"),
        ("OK/10.png", "good"),
        ("NG/0.png", "NG"),
        ("scratch/0.bmp", "scratch"),
    ]
    assert dataset.test[-1].mask == tmp_path / "ground_truth/scratch/0.png"
    (tmp_path / "NG/note.txt").touch()
    assert open_dataset(tmp_path).left_out == "1 files of other suffixes in NG"
    save_image(tmp_path / "ground_truth/dent/0.png", mode="L")
    with pytest.raises(DatasetError, match="no folder dent that its masks belong to"):
        open_dataset(tmp_path)


def test_good_parts_one_level_deeper_are_told(tmp_path: Path) -> None:
    save_image(tmp_path / "ok/monday/0.png")
    save_image(tmp_path / "ng/0.png")
    with pytest.raises(
        DatasetError, match=r"no good pictures found \(left out: 1 subfolders with .* in ok\)"
    ):
        open_dataset(tmp_path)


@pytest.mark.parametrize("beside", ["test/NG/0.png", "Train/NG/0.png", "0.png"])
def test_a_folder_of_good_parts_in_the_wrong_place_is_no_layout(tmp_path: Path, beside: str) -> None:
    save_image(tmp_path / "good/0.png")
    save_image(tmp_path / beside)
    if beside == "0.png":
        assert open_dataset(tmp_path).layout == "plain folder"
    else:
        with pytest.raises(DatasetError, match="no good pictures found"):
            open_dataset(tmp_path)


def visa(root: Path) -> Path:
    rows = [
        "object,split,label,image,mask",
        "pcb1,train,normal,pcb1/Data/Images/Normal/001.JPG,",
        "pcb1,test,normal,pcb1/Data/Images/Normal/002.JPG,",
        "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png",
        "cashew,train,normal,cashew/Data/Images/Normal/001.JPG,",
    ]
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    for row in rows[1:]:
        for name in row.split(",")[3:]:
            if name:
                save_image(root / name, mode="L")
    return root


def test_visa_reads_the_named_object(tmp_path: Path) -> None:
    dataset = open_dataset(visa(tmp_path), "pcb1")
    assert dataset.layout == "VisA"
    assert names(dataset.train) == ["pcb1/Data/Images/Normal/001.JPG"]
    assert [(s.defective, s.mask is not None) for s in dataset.test] == [(True, True), (False, False)]


def test_visa_without_an_object_lists_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cashew, pcb1"):
        open_dataset(visa(tmp_path), None)


def test_visa_with_a_file_gone_names_it(tmp_path: Path) -> None:
    (visa(tmp_path) / "pcb1/Data/Masks/Anomaly/000.png").unlink()
    with pytest.raises(DatasetError, match=r"Masks/Anomaly/000\.png"):
        open_dataset(tmp_path, "pcb1")


def test_visa_s_table_may_start_with_a_mark_and_use_capitals_and_blanks(tmp_path: Path) -> None:
    table = visa(tmp_path) / "split_csv/1cls.csv"
    text = table.read_text().replace(",normal", ", Normal ").replace(",train", " ,Train ")
    table.write_text(text, encoding="utf-8-sig")
    dataset = open_dataset(tmp_path, "pcb1")
    assert names(dataset.train) == ["pcb1/Data/Images/Normal/001.JPG"]
    assert [sample.defective for sample in dataset.test] == [True, False]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"k\xe4p,test,normal,x,", "not UTF-8 text"),
        (b"pcb1,test", "not one cell for each column"),
        (b"pcb1,test,normal,a,b,c", "not one cell for each column"),
        (b"pcb1,test,normal,/nowhere.png,", "names /nowhere.png: paths start at"),
        (b"pcb1,test,normal,nowhere.png,", "names 'nowhere.png', which is not there"),
        (b"pcb1,test,normal,,", "names '', which is not there"),
        (
            b"pcb1,test,good,pcb1/Data/Images/Normal/002.JPG,",
            "the label is 'good', and not normal or anomaly",
        ),
        (
            b"pcb1,valid,normal,pcb1/Data/Images/Normal/002.JPG,",
            "the split is 'valid', and not train or test",
        ),
        (b"pcb1,test,normal," + b"x" * 200_000 + b",", "field larger than field limit"),
    ],
)
def test_a_wrong_row_of_visa_s_table_is_named(row: bytes, says: str, tmp_path: Path) -> None:
    table = visa(tmp_path) / "split_csv/1cls.csv"
    with table.open("ab") as file:
        file.write(row + b"\n")
    with pytest.raises(DatasetError, match=rf"1cls\.csv, line 6:? {says}"):
        open_dataset(tmp_path, "pcb1")


def test_defects_in_visa_s_train_split_are_left_out_and_counted(tmp_path: Path) -> None:
    table = visa(tmp_path) / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace("test,anomaly", "train,anomaly"))
    dataset = open_dataset(tmp_path, "pcb1")
    assert names(dataset.train) == ["pcb1/Data/Images/Normal/001.JPG"]
    assert str(dataset).endswith("; left out: 1 defective pictures in the split train")


def test_a_plain_folder_of_good_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.tif", "c.Bmp"):
        save_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    dataset = open_dataset(tmp_path, "washer")
    assert (dataset.layout, dataset.product, dataset.test) == ("plain folder", "washer", ())
    assert names(dataset.train) == ["a.tif", "b.JPG", "c.Bmp"]


def test_what_a_plain_folder_holds_besides_images_is_counted(tmp_path: Path) -> None:
    for name in ("a.png", "bad/b.png", "more/of/c.png"):
        save_image(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "d.webp").write_bytes(b"")
    says = "0 masks; left out: 2 subfolders with pictures and 1 files of other suffixes"
    assert str(open_dataset(tmp_path)).endswith(says)


def test_nothing_usable_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="train/good"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")


def test_masks_are_any_non_zero_pixel_at_the_network_s_size(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 0:32] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    read = read_mask(tmp_path / "m.png", Geometry(32, 32), Size(64, 64))
    assert read.shape == (32, 32)
    assert read[8:16, 0:16].all()
    assert read.sum() == 8 * 16


def test_traces_of_jpeg_are_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[18:31, 3:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=30)
    with Image.open(tmp_path / "m.jpg") as stored:
        assert np.count_nonzero(np.asarray(stored)) > 1.2 * np.count_nonzero(mask)
    assert np.array_equal(read_mask(tmp_path / "m.jpg", Geometry(64, 64), Size(64, 64)), mask > 0)


def test_a_mask_has_the_shape_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.new("L", (100, 75)).save(path)
    for image_size in (Size(100, 75), Size(400, 300), Size(400, 301), Size(50, 38)):
        read_mask(path, Geometry(32, 32), image_size)
    with pytest.raises(DatasetError, match=r"m\.png: a mask of 100×75 pixels .* 100×100"):
        read_mask(path, Geometry(32, 32), Size(100, 100))


def test_a_mask_too_large_to_open_is_named(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "m.png")
    with pytest.raises(DatasetError, match=r"m\.png: not a readable mask \(more than 40 million pixels\)"):
        read_mask(tmp_path / "m.png", Geometry(32, 32), Size(64, 64))


def test_a_name_that_is_not_utf_8_is_refused_before_it_ends_a_run(tmp_path: Path) -> None:
    for name in ("a.png", os.fsdecode(b"caf\xe9.png")):
        Image.new("RGB", (40, 40)).save(tmp_path / name, "PNG")
    with pytest.raises(DatasetError, match=r"caf\\udce9\.png': the name is not UTF-8; rename the file"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        (r"lot\d-\d+", "lot1-02"),
        (r"lot\d-(\d+)", "02"),
        (r"(lot\d)-(\d+)", "lot1"),
        (r"(side)?-(\d+)", "02"),
        (r"lot1()-02", "lot1-02"),
    ],
)
def test_a_part_is_the_first_group_that_found_something_else_the_match(pattern: str, part: str) -> None:
    assert parts_of([Sample(Path("lot1-02.png"), "lot1-02.png")], re.compile(pattern)) == [part]


def test_a_picture_that_a_table_names_twice_has_its_part_twice() -> None:
    twice = 2 * [Sample(Path("lot1-02.png"), "lot1-02.png")]
    assert parts_of(twice, re.compile(r"lot\d")) == ["lot1", "lot1"]
