"""drd-evaluate gives the service's results for a bundle, and the same up to rounding for its checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.bundle import Bundle, frame_statistics, read
from export.bundle.frame import Range
from export.evaluate_cli import main
from tests.bundles import ANYTHING, edit_manifest, make_bundle, plain_frame
from tests.export.checkpoints import break_network
from tests.export.machine import needs
from training.checkpoint import load_checkpoint
from training.geometry import Size
from training.images import read_rgb


def evaluated(subject: Path, data: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    assert main([str(subject), str(data), "--json", str(file), *options]) == 0
    facts: dict[str, Any] = json.loads(file.read_bytes())
    return facts


def test_predict_and_evaluate_give_the_same_result(exported: Path, data: Path, tmp_path: Path) -> None:
    images = {image["name"]: image for image in evaluated(exported, data, tmp_path)["images"]}
    assert len(images) == 12
    bundle = Bundle.open(exported)
    predictor = bundle.start()
    for name, image in images.items():
        rgb = read_rgb(data / name)
        frame = bundle.manifest.geometry.apply(rgb)
        prediction = predictor.predict(frame[np.newaxis])
        size = Size.of(rgb)
        statistics = frame_statistics(frame, size)
        score = float(prediction.score[0])
        finding, _ = read(
            prediction.heatmap[0], score, statistics, bundle.manifest, predictor.guard_band, size
        )
        assert image["raw_score"] == pytest.approx(score, abs=1e-6)
        assert (image["verdict"], image["reason"]) == (finding.verdict, finding.reason)


@pytest.mark.parametrize("engine", ["onnx-f32", "openvino-f32"])
def test_checkpoint_and_every_engine_have_the_same_figures(
    exported: Path, checkpoint: Path, data: Path, tmp_path: Path, engine: str
) -> None:
    needs(engine)
    of_bundle = evaluated(exported, data, tmp_path, "--engine", engine)
    of_checkpoint = evaluated(checkpoint, data, tmp_path)
    for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro"):
        assert of_bundle[name] == pytest.approx(of_checkpoint[name], abs=1e-3)
    assert (of_bundle["n_good"], of_bundle["n_defective"]) == (6, 6)
    assert of_bundle["engine"] == engine
    assert "false_reject_rate" not in of_checkpoint


def test_rates_by_hand(tmp_path: Path) -> None:
    """Dark plain frames are OK, bright ones NG, those at the threshold REVIEW."""
    bundle = make_bundle(tmp_path / "models", guard_band=0.01)
    data = tmp_path / "data"
    levels = {
        "train/good": [10],
        "test/good": [10, 20, 30, 127, 200],
        "test/blot": [250, 240, 128, 40],
    }
    save_plain(data, levels)
    facts = evaluated(bundle, data, tmp_path)
    assert facts["false_reject_rate"] == 1 / 5
    assert facts["review_rate_good"] == 1 / 5
    assert facts["miss_rate"] == 1 / 4
    assert facts["review_rate_defective"] == 1 / 4
    assert facts["image_auroc"] == 17 / 20
    assert (facts["pixel_auroc"], facts["pixel_ap"], facts["aupro"]) == (None, None, None)


@pytest.mark.parametrize(("rejected", "told"), [(4, False), (5, True)])
def test_more_rejects_than_the_budget_explains_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rejected: int, told: bool
) -> None:
    """Of 20 good parts, where 1 % may be NG."""
    levels = [*range(10, 30 - rejected), *range(200, 200 + rejected)]
    save_plain(tmp_path / "data", {"train/good": [10], "test/good": levels, "test/blot": [250]})
    evaluated(make_bundle(tmp_path / "models"), tmp_path / "data", tmp_path)
    said = "WARNING: more good parts are NG than the error budget explains"
    assert (said in capsys.readouterr().out) == told


def test_mistakes_are_named_and_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {
        "train/good": [10],
        "test/good": [10, 20, 200, 210],
        "test/blot": [*range(30, 37), 250],
        "test/crack": [240],
    }
    save_plain(tmp_path / "data", levels)
    evaluated(make_bundle(tmp_path / "models"), tmp_path / "data", tmp_path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert rows[2:] == [
        ["good", "4", "50.0%", "0.0%", "50.0%"],
        ["defective", "9", "77.8%", "0.0%", "22.2%"],
        ["blot", "8", "87.5%", "0.0%", "12.5%"],
        ["crack", "1", "0.0%", "0.0%", "100.0%"],
    ]
    main([str(tmp_path / "models/tile/1"), str(tmp_path / "data")])
    out = capsys.readouterr().out
    assert "  good, but NG:\n    0.70 test/good/210.png\n    0.68 test/good/200.png\n" in out
    missed = "".join(f"    {level / 255:.2f} test/blot/{level}.png\n" for level in range(30, 35))
    assert f"  defective, but OK:\n{missed}    and 2 more: --json names all\n" in out


def test_what_other_thresholds_would_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 20 good parts, one of which looks worse than all others."""
    levels = {"train/good": [10], "test/good": [*range(10, 29), 100], "test/blot": [20, 90, 110, 250]}
    save_plain(tmp_path / "data", levels)
    evaluated(make_bundle(tmp_path / "models"), tmp_path / "data", tmp_path)
    out = capsys.readouterr().out
    assert "  if at most       0.5%     1.0%     2.0%     5.0%    10.0% of these good are NG\n" in out
    assert "  there pass      50.0%    50.0%    50.0%    25.0%    25.0% of defective\n" in out


def test_other_thresholds_count_parts_not_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of ten good parts has one picture that looks worse than the other, as has the defective one."""
    levels = {"train/good": [10], "test/good": [*range(10, 20), *range(100, 110)], "test/blot": [20, 109]}
    save_plain(tmp_path / "data", levels)
    bundle = make_bundle(tmp_path / "models")
    for option, passing in ((), "50.0%"), (("--same-part", "good/.+(.)[.]png|blot"), "0.0%"):
        evaluated(bundle, tmp_path / "data", tmp_path, *option)
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if "there pass" in line]
        assert rows[0][-3] == passing


def test_the_worst_picture_decides_on_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two parts, one is NG on one picture, the other on none."""
    data = tmp_path / "data"
    save_plain(data, {".": [10, 20, 30, 200]})
    for level, name in ((10, "a-1"), (200, "a-2"), (20, "b-1"), (30, "b-2")):
        (data / f"{level}.png").rename(data / f"{name}.png")
    bundle = make_bundle(tmp_path / "models")
    facts = evaluated(bundle, data, tmp_path, "--same-part", "^(.)-")
    assert facts["false_reject_rate"] == 1 / 2
    assert [image["part"] for image in facts["images"]] == ["a", "a", "b", "b"]
    out = capsys.readouterr().out
    assert "parts" in out
    assert "good, but NG:\n    0.68 a-2.png\n" in out
    assert evaluated(bundle, data, tmp_path)["false_reject_rate"] == 1 / 4
    assert main([str(bundle), str(data), "--same-part", "^a"]) == 1
    assert "--same-part: '^a' is not found in b-1.png" in capsys.readouterr().err


def test_why_parts_are_to_be_reviewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ANYTHING.model_copy(update={"brightness": Range(low=0.05, high=1.0)})
    bundle = make_bundle(tmp_path / "models", guard_band=0.01, frame_ranges=usual)
    save_plain(tmp_path / "data", {".": [2, 3, 40, 127]})
    facts = evaluated(bundle, tmp_path / "data", tmp_path)
    assert [image["unfamiliar"] for image in facts["images"]].count(["brightness"]) == 2
    out = capsys.readouterr().out
    assert "REVIEW             2 unlike_training brightness\n  REVIEW             1 guard_band\n" in out


def test_an_engine_for_single_frames_is_measured_with_single_frames(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "models")
    save_plain(tmp_path / "data", {".": [10, 20, 200]})
    expected = evaluated(bundle, tmp_path / "data", tmp_path)["images"]
    edit_manifest(bundle, lambda facts: facts["engines"][0].update(batch_sizes=[1]))
    assert evaluated(bundle, tmp_path / "data", tmp_path)["images"] == expected


def test_a_plain_folder_of_good_images_has_rates_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "models")
    save_plain(tmp_path / "data", {".": [10, 200]})
    facts = evaluated(bundle, tmp_path / "data", tmp_path)
    assert (facts["false_reject_rate"], facts["miss_rate"], facts["image_auroc"]) == (0.5, None, None)
    out = capsys.readouterr().out
    assert "plain folder" in out
    assert "flatter the figures" in out
    assert "auroc" not in out  # there is nothing to print


def test_a_checkpoint_is_not_measured_on_what_it_has_learned_from(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = load_checkpoint(checkpoint).splits
    facts = evaluated(checkpoint, data / "train/good", tmp_path)
    assert sorted(image["name"] for image in facts["images"]) == sorted(
        Path(record.name).name for record in splits["calibrate"]
    )
    learned = tmp_path / "learned"
    learned.mkdir()
    shutil.copy(data / splits["select"][0].name, learned)
    assert main([str(checkpoint), str(learned)]) == 1
    assert "all 1 pictures were used in training" in capsys.readouterr().err


def test_learned_pictures_in_the_test_set_are_told(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they come there when the last fifth of a folder `good`, which is for measuring, begins elsewhere."""
    (learned, *_) = load_checkpoint(checkpoint).learned
    grown = tmp_path / "grown"
    shutil.copytree(data, grown)
    assert main([str(checkpoint), str(grown)]) == 0
    assert "WARNING" not in capsys.readouterr().out
    shutil.copy(data / learned.name, grown / "test/good/again.png")
    assert main([str(checkpoint), str(grown)]) == 0
    assert (
        "WARNING: 1 of these pictures were learned from, which flatters the figures; the first is "
        f"{grown / 'test/good/again.png'}\n" in capsys.readouterr().out
    )


def test_a_path_that_cannot_be_looked_at(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a" * 300, str(data)]) == 1
    assert capsys.readouterr().err.startswith("drd-evaluate: [Errno 36] File name too long")


def test_other_pictures_of_parts_that_were_learned_from_are_not_new(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    facts = json.loads((copy / "checkpoint.json").read_bytes())
    (copy / "checkpoint.json").write_text(json.dumps(facts | {"same_part": "[0-9]{3}"}))
    shots = tmp_path / "shots"
    shots.mkdir()
    for split in ("fit", "calibrate"):
        shutil.copy(data / "test/good/000.png", shots / Path(facts["splits"][split][0]["name"]).name)
    images = evaluated(copy, shots, tmp_path)["images"]
    assert [image["name"] for image in images] == [Path(facts["splits"]["calibrate"][0]["name"]).name]


@pytest.mark.parametrize("damaged", ["test/blot/001.png", "ground_truth/blot/001_mask.png"])
def test_what_is_damaged_ends_it_or_is_left_out_where_that_is_asked_for(
    checkpoint: Path, data: Path, tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / damaged).write_bytes(b"")
    assert main([str(checkpoint), str(copy)]) == 1
    assert str(copy / damaged) in capsys.readouterr().err
    facts = evaluated(checkpoint, copy, tmp_path, "--skip-unreadable")
    assert (facts["n_good"], facts["n_defective"]) == (6, 5)
    assert f"Left out     {copy / damaged}: " in capsys.readouterr().out


def save_plain(root: Path, levels: dict[str, list[int]]) -> None:
    for folder, values in levels.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for value in values:
            Image.fromarray(plain_frame(value)).save(root / folder / f"{value}.png")


def test_a_damaged_bundle_is_refused_in_one_line(
    exported: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(exported, copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main([str(copy), str(data)]) == 1
    assert capsys.readouterr().err == (
        f"drd-evaluate: {copy}: model.onnx is damaged: its digest is not the one in manifest.json\n"
    )


def test_an_engine_the_bundle_lacks_and_a_folder_without_tests(
    exported: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(exported), str(data), "--engine", "openvino-int8"]) == 1
    assert "no engine openvino-int8, only " in capsys.readouterr().err
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    assert main([str(exported), str(tmp_path / "data")]) == 1
    said = capsys.readouterr()
    assert "without test images" in said.err
    assert "WARNING" not in said.out


def test_a_network_that_gives_nan_is_refused_in_one_line(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = break_network(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    assert main([str(broken), str(data)]) == 1
    assert capsys.readouterr().err == (
        f"drd-evaluate: {data / 'test/blot/000.png'}: the network's output for it is NaN or infinite\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "onnx-f32"], "--engine is for bundles"),
        (["--same-part", "[0-9]+"], "--same-part is for bundles"),
        (["--same-part", "["], "is not a regular expression"),
        (["--engine", "onnx-f16"], "there is no engine 'onnx-f16'; known: onnx-cuda-fp16, "),
        (["--json", "nowhere/figures.json"], "there is no folder nowhere"),
        (["--json", "."], "--json .: a folder"),
    ],
)
def test_misuse_ends_with_status_2(
    checkpoint: Path, data: Path, options: list[str], message: str, misuse: Callable[..., str]
) -> None:
    assert message in misuse(main, checkpoint, data, *options)
