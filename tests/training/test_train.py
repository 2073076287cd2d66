"""`drd-train` from a folder to a checkpoint, on real files with a tiny teacher."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.export.checkpoints import break_network, make_checkpoint, make_dataset
from tests.threads import on_all_cores
from training.checkpoint import FORMAT, CheckpointError, load_checkpoint, save_checkpoint
from training.cli import main
from training.datasets import open_dataset, parts_of
from training.files import write_json
from training.images import read_frames
from training.model.weights import load_teacher
from training.recipe import PRESETS
from training.resume import ResumeFile
from training.score_rule import choose_rule
from training.splits import split

BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the whole classifier, as a hub gives them; more than the teacher needs."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "plate")


def options(data: Path, weights: Path, out: Path, *more: str) -> list[str]:
    return [
        str(data), "--product", "plate", "--out", str(out), "--recipe", "quick", "--backbone", BACKBONE,
        "--weights", str(weights), "--size", "64", "64", "--device", "cpu", *more,
    ]  # fmt: skip


def assert_same_tensors(one: Path, other: Path) -> None:
    """Two checkpoints have them, to the bit."""
    first, second = (load_file(checkpoint / "checkpoint.safetensors") for checkpoint in (one, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path, weights: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "checkpoint"
    assert main(options(data, weights, out, "--epochs", "3")) == 0
    return out


def test_the_checkpoint_is_whole_and_gives_the_model(trained: Path, data: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "checkpoint.json", "checkpoint.safetensors", "metrics.json", "report.png",
    }  # fmt: skip
    checkpoint = load_checkpoint(trained)
    select = [sample.path for sample in checkpoint.samples("select")]
    heatmap, score = checkpoint.model().predict(read_frames(select, checkpoint.geometry))
    assert heatmap.shape == (6, 64, 64)
    assert np.isfinite(score).all()
    assert checkpoint.data_root == data
    with Image.open(trained / "report.png") as report:
        assert report.width > 800


def test_the_rule_is_fitted_and_compared_on_the_select_images(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    paths = [sample.path for sample in checkpoint.samples("select")]
    select = torch.from_numpy(read_frames(paths, checkpoint.geometry))
    again = checkpoint.model()
    tried = choose_rule(again, checkpoint.recipe, select, checkpoint.seed)
    noted = json.loads((trained / "metrics.json").read_text())["rules_tried"]
    assert [each.auroc for each in tried] == pytest.approx([each["auroc_select"] for each in noted])
    torch.testing.assert_close(again.heatmap.scale, checkpoint.model().heatmap.scale)


def test_a_white_square_is_found_after_three_epochs(trained: Path) -> None:
    figures = json.loads((trained / "metrics.json").read_text())
    assert figures["test"]["image_auroc"] > 0.9
    assert figures["test"]["pixel_auroc"] > 0.8
    assert len(figures["epoch_losses"]) == 3
    assert figures["epoch_losses"][-1] < figures["epoch_losses"][0]


def test_the_same_seed_gives_the_same_tensors(
    trained: Path, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(data, weights, tmp_path / "again", "--epochs", "3")) == 0
    output = capsys.readouterr()  # no terminal, so a line an epoch and no bar
    assert "64×64, 3 epochs × 5 batches = 15 steps, on cpu\n" in output.out
    assert "epoch 3/3: loss " in output.out
    assert "42 to train, 6 to choose the score rule, 12 to set the threshold\n" in output.out
    assert "WARNING" not in output.out
    assert "stretched" not in output.out
    assert "%|" not in output.err
    assert_same_tensors(trained, tmp_path / "again")


@pytest.mark.system
def test_the_same_seed_gives_the_same_tensors_on_all_cores(data: Path, weights: Path, tmp_path: Path) -> None:
    """Others than one thread makes."""
    with on_all_cores():
        for name in ("once", "again"):
            assert main(options(data, weights, tmp_path / name, "--epochs", "1")) == 0
    assert_same_tensors(tmp_path / "once", tmp_path / "again")


def test_weights_give_the_same_tensors_from_a_package_and_from_a_file(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=0)
    lite, file = "tf_efficientnet_lite0", tmp_path / "weights.safetensors"
    save_file(load_teacher(lite).net.state_dict(), file)
    run = [str(data), "--product", "plate", "--recipe", "quick", "--size", "64", "64", "--device", "cpu"]
    run += ["--backbone", lite, "--epochs", "1", "--out"]
    assert main([*run, str(tmp_path / "package")]) == 0
    assert main([*run, str(tmp_path / "file"), "--weights", str(file)]) == 0
    assert_same_tensors(tmp_path / "package", tmp_path / "file")


def test_a_killed_run_goes_on_to_the_same_result(
    trained: Path, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "killed"
    arguments = options(data, weights, out, "--epochs", "3")
    process = subprocess.Popen(
        [sys.executable, "-m", "training.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (out / "resume.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "checkpoint.json").exists()

    assert main(arguments) == 0

    assert "going on after epoch" in capsys.readouterr().out
    assert_same_tensors(trained, out)
    assert (out / "checkpoint.json").read_bytes() == (trained / "checkpoint.json").read_bytes()
    assert not (out / "resume.safetensors").exists()


def test_a_checkpoint_is_not_replaced_by_another_products(
    trained: Path, data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "checkpoint.json").read_bytes()
    assert main([*options(data, weights, trained), "--product", "another"]) == 1
    assert "holds the checkpoint of 'plate': give 'another' another --out" in capsys.readouterr().err
    assert (trained / "checkpoint.json").read_bytes() == before


def test_two_trainings_are_not_in_one_folder(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options(data, weights, tmp_path, "--epochs", "1")
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert main(arguments) == 1
    assert capsys.readouterr().err == (f"drd-train: {tmp_path}: another training is running in this folder\n")
    os.close(lock)
    assert main(arguments) == 0


def test_a_folder_that_cannot_be_locked_is_used_and_that_is_said(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unless it may not be opened."""
    failures = [PermissionError(13, "Permission denied"), OSError("no locks on this file server")]
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=failures))
    arguments = options(data, weights, tmp_path, "--epochs", "1")
    assert main(arguments) == 1
    assert capsys.readouterr().err == "drd-train: [Errno 13] Permission denied\n"
    assert main(arguments) == 0
    assert f"WARNING: {tmp_path} can't be locked: let no other training run there" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["of other options", "damaged"])
def test_an_unfinished_run_that_cannot_go_on_is_replaced_and_that_is_said(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    path = tmp_path / "resume.safetensors"
    if state == "damaged":
        path.write_bytes(b"cut short")
    else:
        save_file({"net.0": torch.zeros(1)}, path)
    assert main(options(data, weights, tmp_path, "--epochs", "1")) == 0
    output = capsys.readouterr().out
    assert "an unfinished run, damaged or with another program, options or pictures, is replaced\n" in output
    assert not path.exists()


@pytest.mark.parametrize(("name", "other"), [("program_version", lambda: "0.0.1"), ("FORMAT", FORMAT - 1)])
def test_a_program_of_another_version_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    """Its network may be another."""
    fit = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    run = tmp_path / "resume.safetensors", PRESETS["fast"], 0, None, fit
    identity = ResumeFile(*run).identity
    assert identity == ResumeFile(*run).identity
    monkeypatch.setattr(f"training.resume.{name}", other)
    assert ResumeFile(*run).identity != identity


def test_a_second_run_leaves_nothing_of_the_first_under_its_own_tensors(data: Path, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "plate", data)
    for name in ("metrics.json", "report.png"):
        (directory / name).write_text("of the first run")
    checkpoint = load_checkpoint(directory)
    (directory / "checkpoint.json.part").symlink_to("/dev/full")  # so that it fails after the tensors
    with pytest.raises(OSError, match=r"checkpoint\.json: cannot be written"):
        save_checkpoint(checkpoint, checkpoint.model())
    assert {path.name for path in directory.iterdir()} == {"checkpoint.safetensors"}


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"metrics\.json: cannot be written \(No space left on device\)"):
        write_json(tmp_path / "metrics.json", {"a": 1})
    assert not list(tmp_path.iterdir())  # half of it would take room


def test_an_earlier_checkpoint_survives_a_failed_write(data: Path, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "plate", data)
    checkpoint = load_checkpoint(directory)
    drd = checkpoint.model()
    (directory / "checkpoint.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot be written"):
        save_checkpoint(checkpoint, drd)
    assert load_checkpoint(directory).model()


def test_others_can_read_a_checkpoint_and_a_killed_write_leaves_nothing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors.part").write_bytes(b"half")
    files = list(make_checkpoint(tmp_path, data).iterdir())
    assert {path.name for path in files} == {"checkpoint.json", "checkpoint.safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1


def test_tensors_of_another_training_are_refused(data: Path, tmp_path: Path) -> None:
    one, other = (make_checkpoint(tmp_path / name, data) for name in ("one", "other"))
    break_network(other)
    (other / "checkpoint.safetensors").replace(one / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match=r"not the tensors that checkpoint\.json describes"):
        load_checkpoint(one).model()


def test_a_network_that_cannot_be_read_is_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, data))
    recipe = checkpoint.recipe.model_copy(update={"backbone": "resnet81"})  # of another timm
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: .*not a timm model.*$"):
        checkpoint.model_copy(update={"recipe": recipe}).model()
    tensors = tmp_path / "checkpoint.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"^{tensors}: does not hold this network's tensors .*$"):
        checkpoint.model()
    tensors.unlink()
    with pytest.raises(CheckpointError, match=f"^{tensors}: does not hold this network's tensors .*$"):
        checkpoint.model()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("training.checkpoint.load_file", "unable to mmap 9 bytes: Cannot allocate memory (12)"),
        ("timm.create_model", "DefaultCPUAllocator: can't allocate memory: you tried …"),
        ("training.model.teacher._probe", "could not create a primitive"),
    ],
)
def test_too_little_memory_is_not_taken_for_another_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: str
) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, data))
    monkeypatch.setattr(call, Mock(side_effect=RuntimeError(error)))
    with pytest.raises(MemoryError):
        checkpoint.model()


@pytest.mark.parametrize("pattern", [f"a{{{10**20}}}", "(" * 2000 + ")" * 2000])
def test_a_pattern_that_cannot_be_used_is_refused_in_one_line(
    trained: Path, tmp_path: Path, pattern: str
) -> None:
    facts = json.loads((trained / "checkpoint.json").read_bytes())
    (tmp_path / "checkpoint.json").write_text(json.dumps(facts | {"same_part": pattern}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: same_part: not a regular expression"):
        load_checkpoint(tmp_path)


def test_a_recipe_s_name_is_not_a_formula(data: Path, weights: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "a$x_$.toml"
    recipe.write_text('preset = "quick"\n')
    arguments = options(data, weights, tmp_path / "out", "--epochs", "1", "--recipe", str(recipe))
    assert main(arguments) == 0
    assert (tmp_path / "out/report.png").exists()


def test_changed_training_images_are_noticed(trained: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained)
    name = checkpoint.splits["calibrate"][0].name
    moved = checkpoint.model_copy(update={"data_root": tmp_path})
    with pytest.raises(CheckpointError, match="missing"):
        moved.samples("calibrate")
    for record in checkpoint.splits["calibrate"]:
        (tmp_path / record.name).parent.mkdir(parents=True, exist_ok=True)
        os.link(data / record.name, tmp_path / record.name)
    (tmp_path / name).unlink()
    Image.new("RGB", (80, 72)).save(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}: changed since training"):
        moved.samples("calibrate")


def test_a_checkpoint_of_another_format_is_refused_as_such(trained: Path, tmp_path: Path) -> None:
    """Whatever else is unlike what this program reads."""
    older = json.loads((trained / "checkpoint.json").read_bytes())
    older["format"], older["rule"]["levels"] = 3, [0, 1, 1]
    (tmp_path / "checkpoint.json").write_text(json.dumps(older))
    with pytest.raises(CheckpointError, match=f"of format 3, but this program reads {FORMAT}: train again"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (["--recipe", "slow"], 2, "there are quick, fast, rd, paper"),
        (["--backbone", "resnet81"], 1, "not a timm model"),
        (["--size", "100", "64"], 2, "multiples of 32"),
        (["--product", "../up"], 2, "letters, digits"),
        (["--product", "unknown"], 2, "and not 'unknown'"),
        (["--out", __file__], 2, "is no folder"),
        (["--out", "a" * 300], 1, "File name too long"),
        (["--epochs", "0"], 2, "epochs"),
        (["--preview", "."], 2, "--preview: . is a folder"),
        (["--preview", f"{__file__}/p.png"], 2, "is no folder"),
        (["--preview", "p.png", "--recipe", "rd"], 2, "rd learns with no pseudo-abnormal pictures"),
        (["--device", "tpu"], 2, "invalid choice"),
        (["--same-part", "(0"], 2, "not a regular expression"),
        (["--same-part", f"0{{{10**20}}}"], 2, "not a regular expression"),
        (["--same-part", "St\udcfcck|0"], 2, "not a regular expression"),
        (["--same-part", "part-[0-9]+"], 1, "'part-[0-9]+' is not found in train/good/000.png"),
        (
            ["--same-part", "0[0-4]"],
            1,
            "not found in train/good/050.png; in train/good/000.png it finds '00'",
        ),
        (["--same-part", "train"], 1, "'train': 60 images of 1 parts, up to 60 of one, can't be divided"),
    ],
)
def test_mistakes_are_one_clear_line(
    data: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: list[str],
    code: int,
    message: str,
) -> None:
    arguments = [*options(data, weights, tmp_path / "out"), *wrong]
    try:
        status: object = main(arguments)
    except SystemExit as misuse:  # argparse's way out
        status = misuse.code
    assert status == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--backbone", "resnet81"], "not a timm model"),
        (["--weights", "nowhere.safetensors"], "No such file"),
        (["--device", "cuda"], "no CUDA device"),
        (["--out", f"{__file__}/checkpoint"], "Not a directory"),
    ],
)
def test_what_cannot_start_is_found_before_the_images_are_read(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"which would be an error of its own")
    assert main([*options(tmp_path, weights, tmp_path / "out"), *wrong]) == 1
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_leaves_no_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(options(tmp_path, weights, tmp_path / "out", "--device", "cuda")) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(1 << 50),
        lambda: np.empty(1 << 50),
        Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    ],
    ids=["torch", "numpy", "cuda"],
)
def test_too_little_memory_is_one_clear_line(
    allocate: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.run.train", lambda _: allocate())
    assert main(["x", "--product", "p", "--out", "o"]) == 1
    advice = "try a smaller --size, or a smaller `batch` in a recipe file"
    assert capsys.readouterr().err == f"drd-train: not enough memory; {advice}\n"


def test_a_terminal_of_few_characters_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("training.run.train", lambda _: sys.stdout.write("64×64"))
    assert main(["x", "--product", "p", "--out", "o"]) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"64?64"


def test_a_folder_that_may_not_be_written_in_is_found_at_once(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # which nothing is to root
    assert main(options(data, weights, tmp_path)) == 1
    assert capsys.readouterr() == ("", f"drd-train: {tmp_path}: this user may not write there\n")


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.run.train", lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["x", "--product", "p", "--out", "o"])


def test_an_unreadable_image_stops_the_run_or_is_named_and_left_out(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=1)
    (data / "train/good/007.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    assert main(options(data, weights, tmp_path / "a", "--epochs", "1")) == 1
    stopped = capsys.readouterr().err
    assert "007.png" in stopped
    assert "--skip-unreadable" in stopped
    assert main(options(data, weights, tmp_path / "b", "--epochs", "1", "--skip-unreadable")) == 0
    assert "left out" in capsys.readouterr().out
    assert "007.png" not in (tmp_path / "b/checkpoint.json").read_text()


def test_unreadable_images_do_not_count(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=11, test=0)
    for name in ("007.png", "008.png"):
        (data / "train/good" / name).write_bytes(b"")
    assert main(options(data, weights, tmp_path / "out", "--epochs", "1", "--skip-unreadable")) == 1
    printed = capsys.readouterr()
    assert "9 good images: at least 10 are needed" in printed.err
    assert printed.out.count("not a readable image") == 2
    assert "copies" not in printed.out


def test_the_same_pixels_in_other_files_are_copies(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=2)
    with Image.open(data / "train/good/000.png") as image:
        image.save(data / "train/good/000.bmp")
        image.save(data / "test/good/again.tif")
    assert main(options(data, weights, tmp_path / "out", "--epochs", "1")) == 0
    out = capsys.readouterr().out
    assert "left out: 1 copies of other pictures, the first is train/good/000.png" in out
    assert (
        "WARNING: 1 test pictures are copies of good ones to learn from, which flatters the figures; "
        "the first is test/good/again.tif" in out
    )
    recorded = [
        record.name for subset in load_checkpoint(tmp_path / "out").splits.values() for record in subset
    ]
    assert len(set(recorded)) == len(recorded) == 20
    assert "train/good/000.bmp" in recorded


@pytest.mark.parametrize("inside", [("--out", "."), ("--preview", "p.png")])
def test_nothing_is_written_among_the_images(
    inside: tuple[str, str], data: Path, weights: Path, tmp_path: Path, misuse: Callable[..., str]
) -> None:
    option, path = inside
    folder = data / "train/good"
    said = misuse(main, *options(folder, weights, tmp_path / "out"), option, folder / path)
    assert f"{option}: not into {folder}, whose pictures are those of the data set" in said


@pytest.mark.parametrize("inside", [("--out", ""), ("--preview", "p.png")])
@pytest.mark.parametrize(
    ("good", "folder"), [("good", "good"), ("good", "checkpoint"), ("train/ok", "test/checkpoint")]
)
def test_nothing_is_written_into_a_folder_of_a_kind(
    good: str, folder: str, inside: tuple[str, str], weights: Path, tmp_path: Path, misuse: Callable[..., str]
) -> None:
    """The report would count as a defective part, and be a golden frame of the bundle."""
    option, path = inside
    (tmp_path / "gasket" / good).mkdir(parents=True)
    target = tmp_path / "gasket" / folder
    said = misuse(main, *options(tmp_path / "gasket", weights, tmp_path / "out"), option, target / path)
    assert f"{option}: not into {target}, whose pictures are those of the data set" in said


def test_links_that_lead_nowhere_are_no_folders(
    data: Path,
    weights: Path,
    tmp_path: Path,
    misuse: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for link, target in (("itself", "itself"), ("nowhere", "gone")):
        (tmp_path / link).symlink_to(target)
        said = misuse(main, *options(data, weights, tmp_path / link))
        assert f"--out: {tmp_path / link} is no folder" in said
        assert main(options(tmp_path / link, weights, tmp_path / "out")) == 1
        assert capsys.readouterr().err == f"drd-train: {tmp_path / link}: no such folder\n"


def test_a_mask_of_another_shape_stops_the_run(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=1)
    Image.new("L", (72, 80)).save(data / "ground_truth/blot/000_mask.png")
    assert main(options(data, weights, tmp_path / "out", "--epochs", "1")) == 1
    assert "000_mask.png: a mask of 72×80 pixels has not the shape of its picture, 80×72" in (
        capsys.readouterr().err
    )


def test_images_of_one_part_and_copies_are_kept_out_of_calibration(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=0)
    folder = data / "train/good"
    for number in range(10):  # a second picture of each of ten parts, far away in the order of names
        (folder / f"{10 + number:03}.png").rename(folder / f"exposure2_{number:03}.png")
    (folder / "copy_000.png").write_bytes((folder / "000.png").read_bytes())
    arguments = options(data, weights, tmp_path / "out", "--epochs", "1", "--same-part", "train|[0-9]{3}")
    assert main(arguments) == 0
    assert (
        "left out: 1 copies of other pictures, the first is train/good/copy_000.png"
        in capsys.readouterr().out
    )
    splits = load_checkpoint(tmp_path / "out").splits
    places = {record.name[-7:]: set[str]() for subset in splits.values() for record in subset}
    for name, subset in splits.items():
        for record in subset:
            places[record.name[-7:]].add(name)
    assert len(places) == 10
    assert all(len(names) == 1 for names in places.values())
    checkpoint = load_checkpoint(tmp_path / "out")
    fit = checkpoint.samples("fit")
    assert checkpoint.same_part is not None
    assert 2 * len(set(parts_of(fit, checkpoint.same_part))) == len(fit)


def test_a_hidden_folder_is_not_of_a_kind(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").mkdir()
    assert main(options(tmp_path, weights, tmp_path / ".checkpoint")) == 1
    assert "no good pictures found" in capsys.readouterr().err


@pytest.mark.parametrize(("bits", "white"), [(12, 16), (14, 64)])
def test_fewer_bits_in_sixteen_are_noticed(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int, white: int
) -> None:
    generator = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    for number in range(10):
        pixels = generator.integers(0, 1 << bits, (64, 64), dtype=np.uint16)
        Image.fromarray(pixels).save(data / f"{number}.png")
    assert main(options(data, weights, tmp_path / "out", "--epochs", "1")) == 0
    out = capsys.readouterr().out
    assert f"WARNING: no pixel is brighter than {white} of 255" in out
    assert "10-, 12- or 14-bit pictures in 16-bit files?" in out


def test_an_unreadable_test_image_is_found_before_training(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=20, test=2)
    broken = sorted((data / "test").rglob("*.png"))[0]
    broken.write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    assert main(options(data, weights, tmp_path / "a", "--epochs", "1")) == 1
    stopped = capsys.readouterr()
    assert broken.name in stopped.err
    assert "epochs" not in stopped.out
    assert main(options(data, weights, tmp_path / "b", "--epochs", "1", "--skip-unreadable")) == 0
    assert broken.name in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "checkpoint.json", "checkpoint.safetensors", "metrics.json", "report.png",
    }  # fmt: skip


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "one"])
def test_a_seed_is_a_whole_number(seed: str, misuse: Callable[..., str]) -> None:
    assert "whole number" in misuse(main, "x", "--product", "p", "--out", "o", "--seed", seed)


def test_a_plain_folder_of_good_images_is_enough(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_dataset(tmp_path / "plate", good=20, test=0) / "train/good"
    preview = tmp_path / "out/preview.png"
    arguments = options(folder, weights, tmp_path / "out", "--epochs", "1", "--preview", str(preview))
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "plain folder" in out
    assert "WARNING: 20 good pictures are few: start with 50" in out
    with Image.open(preview) as sheet:
        assert sheet.size == (8 * 64, 2 * 2 * 64)  # 14 frames to learn from, each above its damaged version
    assert (tmp_path / "out/report.png").exists()


def test_without_test_images_the_report_shows_the_good_parts_with_the_highest_scores(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mislabelled one is among them, whether it was held back or learned from."""
    folder = make_dataset(tmp_path / "plate", good=60, test=1) / "train/good"
    shown = dict[str, Sequence[tuple[Path, float]]]()

    def noted(_: object, name: str, examples: Sequence[tuple[Path, float]], *__: object) -> None:
        shown[name] = examples

    monkeypatch.setattr("training.report.draw_examples", noted)
    good, places = open_dataset(folder).train, split(60, 0)
    held_back, learned = good[places["select"][0]].path, good[places["fit"][0]].path
    held_back.write_bytes((tmp_path / "plate/test/blot/000.png").read_bytes())
    with Image.open(held_back) as picture:  # no copy, which would be left out
        picture.transpose(Image.Transpose.ROTATE_180).save(learned)
    assert main(options(folder, weights, tmp_path / "out", "--epochs", "1")) == 0
    assert list(shown) == ["good, held back, highest", "good, learned, highest"]
    for examples, mislabelled in zip(shown.values(), (held_back, learned), strict=True):
        scores = [score for _, score in examples]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 5
        assert examples[0][0] == mislabelled
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("highest of those"))
    assert line.startswith(f"highest of those learned from: {learned.name} ")
    assert line.endswith(": are these good?")


def test_images_of_unlike_shapes_are_said_to_be_stretched(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, turned = np.random.default_rng(0), Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    for number in range(10):
        pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=turned if number == 9 else b"")
    assert main(options(tmp_path, weights, tmp_path / "out", "--epochs", "1")) == 0
    assert (
        "differ in shape, width/height 0.75 to 1.33: all are stretched to 64×64\n" in capsys.readouterr().out
    )


def test_foreign_weights_are_refused_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"layer9.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert main(options(data, tmp_path / "other.safetensors", tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert "tensors missing" in message
    assert "layer9.weight" in message
