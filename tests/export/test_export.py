"""drd-export from a checkpoint on disk to a bundle on disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from export.build import installed
from export.bundle import MAX_VERSION, Bundle
from export.bundle.manifest import BundleError, EngineEntry
from export.cli import main
from export.parity import EngineParity
from export.prepare import LeftOut, prepare
from export.sources import calibration_images, defective_images
from tests.export.checkpoints import break_network, make_checkpoint, make_dataset
from training.checkpoint import DRD, RESUME, TENSORS, load_checkpoint
from training.datasets import DatasetError
from training.files import file_digest
from training.geometry import Geometry
from training.images import read_frames


def export(checkpoint: Path, models: Path, *options: str) -> int:
    return main([str(checkpoint), "--to", str(models), *options])


def test_the_bundle_opens_starts_and_carries_its_comparison(exported: Path) -> None:
    bundle = Bundle.open(exported)
    manifest = bundle.manifest
    assert (manifest.product, manifest.version, manifest.min_area) == ("plate", 1, 0)
    assert (manifest.geometry.height, manifest.geometry.width) == (64, 64)
    assert manifest.thresholds.max_false_reject == 0.1
    assert manifest.thresholds.promised
    parity = json.loads((exported / "parity.json").read_bytes())
    assert parity["frames"] == len(manifest.golden)
    assert [engine["id"] for engine in parity["engines"]] == [entry.id for entry in manifest.engines]
    (engine,) = (engine for engine in parity["engines"] if engine["id"] == "onnx-f32")
    assert (engine["status"], engine["flips"]) == ("verified", 0)
    assert engine["batch_sizes"] == [1, 2, 4, 8]
    (entry,) = (entry for entry in manifest.engines if entry.id == "onnx-f32")
    assert entry.guard_band == 2 * engine["max_score_deviation"]
    assert bundle.start("onnx-f32").deviation <= max(engine["max_score_deviation"], 1e-4)


def test_the_quantised_graph_is_carried_if_an_engine_runs_it(exported: Path) -> None:
    engines = Bundle.open(exported).manifest.engines
    carried = any(entry.id == "openvino-int8" for entry in engines)
    assert (exported / "model.int8.onnx").exists() is carried


def test_golden_frames_are_of_all_kinds_and_four_lie_nearest_the_threshold(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    threshold = manifest.thresholds.image.threshold
    far = {
        kind: max(abs(golden.raw_score - threshold) for golden in manifest.golden if golden.kind == kind)
        for kind in ("near-threshold", "good", "defective", "pseudo-abnormal")
    }
    assert far["near-threshold"] < far["good"]
    assert len([golden for golden in manifest.golden if golden.kind == "near-threshold"]) == 4


def test_the_output_has_what_a_process_engineer_needs(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--version", "7", "--min-area", "12", "--calibration", str(data), "--engines", "onnx-f32"]
    assert export(checkpoint, tmp_path / "models", *options) == 0
    output = capsys.readouterr().out
    for expected in (
        f"12 good images of {data}; 48 used in training, or copies, left out",
        "at most 1.00% of good parts NG; REVIEW comes on top",
        "NOT guaranteed: 12 calibration parts guarantee 7.70% at best",
        "Highest      ",
        "16 frames: 4 near-threshold, 4 good, 4 defective, 4 pseudo-abnormal",
        "onnx-f32                 verified",
        str(tmp_path / "models" / "plate" / "7"),
    ):
        assert expected in output
    manifest = Bundle.open(tmp_path / "models" / "plate" / "7").manifest
    assert (manifest.version, manifest.min_area) == (7, 12)
    assert not manifest.thresholds.promised
    assert export(checkpoint, tmp_path / "models", "--version", "7") == 1
    assert "plate has a version 7 already" in capsys.readouterr().err


def test_images_of_one_part_are_known_as_such(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_checkpoint(checkpoint).model_copy(update={"same_part": re.compile("good/[0-9]{2}")})
    parts = calibration_images(trained, None)
    assert len(set(parts.values())) < len(parts)
    line = f" of {len(set(parts.values()))} parts: each counts once, with its highest score\n"
    assert line in capsys.readouterr().out

    for image in parts:
        (tmp_path / image.name).write_bytes(image.read_bytes())
    others = calibration_images(trained, tmp_path)
    assert len(set(others.values())) == len(others) == len(parts)
    assert "'good/[0-9]{2}', by which training told parts, is in no name" in capsys.readouterr().out

    (tmp_path / "good").mkdir()
    trained = trained.model_copy(update={"same_part": re.compile("0[0-9](?=[0-9].png)")})
    (tmp_path / "other.png").write_bytes(next((data / "test").rglob("*.png")).read_bytes())
    with pytest.raises(DatasetError, match=r"is not found in other\.png"):
        calibration_images(trained, tmp_path)


def test_other_images_of_parts_used_in_training_are_not_used_for_calibration(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A threshold set on parts that were learned from would be too low for new ones."""
    trained = load_checkpoint(checkpoint).model_copy(update={"same_part": re.compile("[0-9]{3}")})
    learned = {Path(record.name).stem for record in trained.learned}
    for image in (data / "train/good").iterdir():  # each a picture that training had not
        shot = (data / "test/good/000.png").read_bytes() if image.stem in learned else image.read_bytes()
        (tmp_path / f"again-{image.stem}.png").write_bytes(shot)
    new = calibration_images(trained, tmp_path)
    assert learned.isdisjoint(new.values())
    assert len(new) == 12
    assert "12 good images of" in (said := capsys.readouterr().out)
    assert "48 of parts used in training, or copies, left out" in said
    for path in new:
        path.unlink()
    with pytest.raises(
        DatasetError, match="all 48 pictures were used in training, or others of the same parts"
    ):
        calibration_images(trained, tmp_path)


def test_images_used_in_training_are_not_used_for_calibration(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    record = json.loads((checkpoint / "checkpoint.json").read_bytes())["splits"]["fit"][0]
    shutil.copy(data / record["name"], seen)
    Image.open(data / record["name"]).save(seen / "saved in another way.bmp")
    assert export(checkpoint, tmp_path / "models", "--calibration", str(seen)) == 1
    assert "all 2 pictures were used in training; give others" in capsys.readouterr().err


def test_what_a_layout_keeps_for_measuring_is_told(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or who gives 100 pictures for a budget of 1 % would not know why 80 are too few."""
    shutil.copytree(data / "test/good", tmp_path / "good")
    assert len(calibration_images(load_checkpoint(checkpoint), tmp_path)) == 5
    said = capsys.readouterr().out
    assert "1 more are not used: in the layout good and defective they are for measuring" in said


def test_of_copies_one_is_used_for_calibration(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    for name in ("once.png", "twice.png"):
        shutil.copy(data / "test/good/000.png", tmp_path / name)
    assert [path.name for path in calibration_images(load_checkpoint(checkpoint), tmp_path)] == ["once.png"]


@pytest.mark.parametrize("split", ["fit", "select", "calibrate"])
def test_changed_or_missing_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=1)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", data)
    record = json.loads((checkpoint / "checkpoint.json").read_bytes())["splits"][split][0]
    image = data / record["name"]
    Image.effect_noise((80, 72), 50).save(image)
    assert export(checkpoint, tmp_path / "models") == 1
    advice = f"'{split}'; give good images with --calibration\n"
    message = f"drd-export: {image}: changed since training, which had it for {advice}"
    assert capsys.readouterr().err == message
    image.write_bytes(b"damaged")
    assert export(checkpoint, tmp_path / "models") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"drd-export: {image}: ")
    assert error.endswith(f"; training had it for {advice}")
    image.unlink()
    assert export(checkpoint, tmp_path / "models") == 1
    assert capsys.readouterr().err == f"drd-export: {image}: missing; training had it for {advice}"
    assert not (tmp_path / "models").exists()


@dataclass(frozen=True)
class Exported:
    """An export that had much to say and went on: from an unfinished training's checkpoint, whose data has a
    damaged defective part, below the newest version, calibrated on a plain folder with a damaged picture."""

    data: Path
    checkpoint: Path
    calibration: Path
    bundle: Path
    output: str


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("wordy")
    data = make_dataset(root / "plate", test=3)
    checkpoint = make_checkpoint(root / "checkpoint", data)
    (checkpoint / RESUME).touch()
    (data / "test/blot/001.png").write_bytes(b"damaged")
    calibration = shutil.copytree(data / "train/good", root / "new")
    (calibration / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    (root / "models/plate/9").mkdir(parents=True)
    options = ["--version", "3", "--engines", "onnx-f32", "--calibration", str(calibration)]
    with redirect_stdout(StringIO()) as output:
        assert export(checkpoint, root / "models", *options, "--skip-unreadable") == 0
    return Exported(data, checkpoint, calibration, root / "models/plate/3", output.getvalue())


def test_a_training_that_has_not_ended_is_announced(wordy: Exported) -> None:
    line = f"a training in {wordy.checkpoint} has not ended: this may be of an earlier one"
    assert line in wordy.output


def test_a_version_below_the_newest_is_announced_as_not_served(wordy: Exported) -> None:
    assert "3 will not be served while 9 is there" in wordy.output
    assert Bundle.open(wordy.bundle).manifest.version == 3


def test_a_damaged_image_is_left_out_where_that_is_asked_for(wordy: Exported) -> None:
    assert f"Left out     {wordy.calibration / 'broken.png'}: " in wordy.output
    left_out = "48 used in training, or copies, left out"
    assert f"12 good images of {wordy.calibration}; {left_out}" in wordy.output


def test_a_folder_of_damaged_images_is_not_said_to_have_been_used_in_training(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"half")
    with pytest.raises(DatasetError, match="no good image can be read"):
        calibration_images(load_checkpoint(checkpoint), tmp_path, skip=True)


def test_defective_parts_are_found_where_training_had_them_but_unreadable_ones(wordy: Exported) -> None:
    """New good pictures in a plain folder: the known defective parts are those of the old data set."""
    assert "2 defective" in wordy.output
    assert "no defective part is known" not in wordy.output
    (line,) = (line for line in wordy.output.splitlines() if "blot/001.png" in line)
    assert line.startswith(f"Left out     {wordy.data / 'test/blot/001.png'}: ")


def test_drawn_damage_is_tried_last(wordy: Exported) -> None:
    lines = wordy.output.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("Damage"))
    shares = [share for line in lines[place + 2 : place + 6] for share in line.split()[-6:]]
    assert len(shares) == 24
    assert all(share.endswith("%") for share in shares)
    assert lines[place + 6].startswith("Bundle")


def test_the_same_network_gives_the_same_graph(wordy: Exported, exported: Path) -> None:
    assert (wordy.bundle / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()


def test_it_is_said_when_no_defective_part_is_known_or_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also without --skip-unreadable, which is about good pictures."""
    data = make_dataset(tmp_path / "plate", good=20, test=1)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", data)
    (data / "test/blot/000.png").write_bytes(b"damaged")
    assert export(checkpoint, tmp_path / "models", "--engines", "onnx-f32") == 0
    output = capsys.readouterr().out
    assert f"Left out     {data / 'test/blot/000.png'}: " in output
    assert "no defective part is known: the engines are not proved on any" in output
    for folder in ("test", "ground_truth"):
        shutil.rmtree(data / folder)
    assert defective_images(load_checkpoint(checkpoint), None) == []


def test_the_files_of_an_engine_that_is_left_out_are_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_plan(
        names: Sequence[str], root: Path, geometry: Geometry, good: NDArray[np.uint8]
    ) -> tuple[list[EngineEntry], LeftOut]:
        (root / "engines").mkdir()
        for name in ("plan.onnx", "plan.engine"):
            (root / "engines" / name).touch()
        plan = EngineEntry(id="tensorrt-fp16-sm90", file="engines/plan.onnx")
        entries, left_out = prepare(names, root, geometry, good)
        return [plan, *entries], left_out

    monkeypatch.setattr("export.engines.prepare", with_a_plan)
    wide = EngineParity(id="model.fp16.onnx", status="verified", batch_sizes=(1,), guard_band=1.0)
    monkeypatch.setattr("export.accept.check_float16_graph", lambda baseline: wide)
    assert export(checkpoint, tmp_path / "models", "--engines", "onnx-f32") == 0
    manifest = Bundle.open(tmp_path / "models" / "plate" / "1").manifest
    assert [entry.id for entry in manifest.engines] == ["onnx-f32"]
    assert not [name for name in manifest.files if "engines" in name]
    assert not list((tmp_path / "models").rglob("plan.*"))


def test_provenance_names_the_tensors_that_were_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    before = file_digest(copy / TENSORS)

    def trained_again(topic: str, line: str) -> None:
        if topic == "Graph":
            break_network(copy)

    monkeypatch.setattr("export.build.say", trained_again)
    assert export(copy, tmp_path / "models", "--max-false-reject", "0.1", "--engines", "onnx-f32") == 0
    assert file_digest(copy / TENSORS) != before
    assert Bundle.open(tmp_path / "models/plate/1").manifest.provenance.checkpoint == before


def test_tensors_that_change_while_they_are_read_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")

    def while_training_writes(path: Path) -> dict[str, Tensor]:
        tensors = load_file(path)
        monkeypatch.undo()
        break_network(copy)
        return tensors

    monkeypatch.setattr("training.checkpoint.load_file", while_training_writes)
    assert export(copy, tmp_path / "models", "--engines", "onnx-f32") == 1
    assert "checkpoint.safetensors: not the tensors that checkpoint.json describes" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_int8_ranges_come_from_images_that_do_not_set_the_threshold(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[NDArray[np.uint8]]()

    def noting(
        names: Sequence[str], root: Path, geometry: Geometry, good: NDArray[np.uint8]
    ) -> tuple[list[EngineEntry], LeftOut]:
        given.append(good)
        return prepare(names, root, geometry, good)

    monkeypatch.setattr("export.engines.prepare", noting)
    assert export(checkpoint, tmp_path, "--engines", "onnx-f32") == 0
    trained = load_checkpoint(checkpoint)
    others = [*trained.samples("fit"), *trained.samples("select")]
    assert np.array_equal(given, [read_frames([each.path for each in others], trained.geometry)])


def test_an_engine_that_was_asked_for_is_in_the_bundle_or_there_is_none(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise BundleError("this network can't be quantised")

    monkeypatch.setattr("export.prepare.quantise", refuse)
    assert export(checkpoint, tmp_path / "models", "--engines", "openvino-int8") == 1
    assert capsys.readouterr().err == "drd-export: this network can't be quantised\n"
    assert not list((tmp_path / "models").iterdir())
    assert export(checkpoint, tmp_path / "models") == 0
    assert "openvino-int8            left out: this network can't be quantised\n" in capsys.readouterr().out


def test_a_folder_that_may_not_be_written_in_is_found_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(checkpoint, Path(__file__) / "models") == 1
    assert capsys.readouterr() == ("", f"drd-export: {__file__}: no folder that this user may write in\n")
    unmounted = tmp_path / "unmounted"
    unmounted.symlink_to("nowhere")
    assert export(checkpoint, unmounted) == 1
    assert capsys.readouterr() == ("", f"drd-export: {unmounted}: no folder that this user may write in\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # which nothing is to root
    assert export(checkpoint, tmp_path / "models") == 1
    assert capsys.readouterr() == ("", f"drd-export: {tmp_path}: no folder that this user may write in\n")


def test_a_smallest_defect_larger_than_any_image_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(checkpoint, tmp_path / "models", "--min-area", str(80 * 72 + 1)) == 1
    assert "of the largest calibration image 5760 pixels are inspected" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_network_that_gives_nan_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = break_network(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    assert export(broken, tmp_path / "models") == 1
    error = capsys.readouterr().err
    assert ".png: the network's output for it is NaN or infinite\n" in error
    assert error.count("\n") == 1


def test_a_network_that_gives_nan_for_a_defective_part_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = DRD.predict

    def nan_for_blots(drd: DRD, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        heatmaps, scores = predict(drd, frames)
        return heatmaps, np.where((frames == 255).mean((1, 2, 3)) > 0.05, np.float32(np.nan), scores)

    monkeypatch.setattr(DRD, "predict", nan_for_blots)
    assert export(checkpoint, tmp_path / "models", "--engines", "onnx-f32") == 1
    error = capsys.readouterr().err
    assert error == "drd-export: 000.png (defective): the network's output for it is NaN or infinite\n"


@pytest.mark.parametrize("folder", ["train/good", "test/blot"])
def test_a_name_that_is_not_utf_8_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=70, test=1)
    shutil.rmtree(data / "ground_truth")
    image = data / folder / "000.png"
    image.rename(image.with_name(os.fsdecode(b"caf\xe9.png")))
    assert export(checkpoint, tmp_path / "models", "--calibration", str(data)) == 1
    assert "caf\\udce9.png': the name is not UTF-8; rename the file\n" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    heed = f"import signal, sys; signal.signal({number:d}, signal.SIG_DFL); "  # the tests may run under nohup
    command = [sys.executable, "-c", heed + "from export.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, str(checkpoint), "--to", str(tmp_path / "models")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as popen:
        assert popen.stdout is not None
        while not popen.stdout.readline().startswith("Graph"):  # written when the staging folder is there
            assert popen.poll() is None
        assert list((tmp_path / "models").iterdir())
        popen.send_signal(number)
        _, error = popen.communicate(timeout=60)
    assert popen.returncode == 128 + number
    assert error.endswith("drd-export: interrupted, nothing was written\n")
    assert list((tmp_path / "models").iterdir()) == []


def test_nohup_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[object]()
    monkeypatch.setattr("export.build.build", lambda _: seen.append(signal.getsignal(signal.SIGHUP)))
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert export(tmp_path, tmp_path) == 0
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert seen == [signal.SIG_IGN]


def test_a_damaged_image_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    assert export(checkpoint, tmp_path / "models", "--calibration", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"drd-export: {tmp_path / 'broken.png'}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--max-false-reject", "0"],
        ["--max-false-reject", "1.5"],
        ["--max-false-reject", "few"],
        ["--max-false-reject", "nan"],
        ["--max-false-reject", "1e-320"],
        ["--min-area", "-1"],
        ["--version", "0"],
        ["--version", "2.0"],
        ["--version", str(MAX_VERSION + 1)],
        ["--engines", "abacus-f32"],
        ["--verbose"],
    ],
)
def test_misuse_ends_with_status_2(tmp_path: Path, options: list[str], misuse: Callable[..., str]) -> None:
    assert options[0] in misuse(main, tmp_path, "--to", tmp_path, *options)


@pytest.mark.parametrize(
    ("option", "given", "right"),
    [
        ("--version", "abc", "a version, a whole number from 1 to 999999999"),
        ("--version", "３", "a version, a whole number from 1 to 999999999"),
        ("--min-area", "1_0", "a whole number of pixels from 0 on"),
        ("--max-false-reject", "few", "a fraction from 0.000001 to below 0.5"),
    ],
)
def test_a_wrong_number_is_told_what_would_be_right(
    tmp_path: Path, option: str, given: str, right: str, misuse: Callable[..., str]
) -> None:
    said = misuse(main, tmp_path, "--to", tmp_path, option, given).splitlines()[-1]
    assert said == f"drd-export: error: argument {option}: {given!r} is not {right}"


def test_a_folder_that_is_not_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, tmp_path / "models") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"drd-export: {tmp_path}: not a checkpoint directory")
    assert error.count("\n") == 1


def test_a_path_that_cannot_be_looked_at(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(checkpoint, tmp_path / ("a" * 300)) == 1
    assert capsys.readouterr().err.startswith("drd-export: [Errno 36] File name too long")


@pytest.mark.parametrize("product", ["../plate", "a/b", ".plate"])
def test_a_product_name_cannot_be_a_path(
    checkpoint: Path, tmp_path: Path, product: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    facts = json.loads((copy / "checkpoint.json").read_bytes())
    (copy / "checkpoint.json").write_text(json.dumps(facts | {"product": product}))
    assert export(copy, tmp_path / "models") == 1
    assert "can't be a product's name" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("splits", {}), ("splits", {"fit": []}), ("same_part", "part-(")]
)
def test_a_description_that_was_edited_is_one_clear_line(
    checkpoint: Path, tmp_path: Path, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads((checkpoint / "checkpoint.json").read_bytes())
    (tmp_path / "checkpoint.json").write_text(json.dumps(facts | {field: value}))
    assert export(tmp_path, tmp_path / "models") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"drd-export: {tmp_path / 'checkpoint.json'}: {field}: ")
    assert error.count("\n") == 1


def test_versions_of_modules_whose_package_has_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "madeup").mkdir()
    (tmp_path / "madeup" / "__init__.py").touch()
    facts = tmp_path / "madeup_gpu-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: madeup-gpu\nVersion: 1.2\n")
    (facts / "top_level.txt").write_text("madeup\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed(["madeup", "absent"]) == {"madeup": "1.2"}
