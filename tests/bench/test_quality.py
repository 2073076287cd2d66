"""The ladder's results: kept as long as what they depend on is the same, and each data set's its own."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.bench import quality
from tests.bench.quality import REREAD, YARDSTICK, kept, ladder, main, open_all, reread, train_rung
from tests.export.checkpoints import make_dataset
from training.checkpoint import load_checkpoint
from training.datasets import DatasetError
from training.evaluate import evaluate, score_images
from training.files import write_json
from training.images import read_frames
from training.recipe import PRESETS
from training.run import TrainOptions
from training.score_rule import choose_rule

BACKBONE = "test_resnet"


def teacher(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), path)
    return path


def visa(root: Path, *products: str) -> Path:
    """Every product a small plate of its own."""
    rows = ["object,split,label,image,mask"]
    for name in products:
        plate = make_dataset(root / name, good=12, test=2)
        for path in sorted((plate / "train/good").iterdir()):
            rows.append(f"{name},train,normal,{path.relative_to(root)},")
        for number in range(2):
            rows.append(f"{name},test,normal,{name}/test/good/{number:03}.png,")
            mask = f"{name}/ground_truth/blot/{number:03}_mask.png"
            rows.append(f"{name},test,anomaly,{name}/test/blot/{number:03}.png,{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


class Bench:
    """The program on tiny pictures, and which folders it trained on. In place of training and of reading RD
    again, which take long, a figure that tells one result from another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.weights = folder / "out", teacher(folder / "teacher.safetensors")
        self.recipe = folder / "tiny.toml"
        self.recipe.write_text('preset = "quick"\nheight = 64\nwidth = 64\nmemory = 20\nepochs = 1\n')
        self.trained: list[Path] = []
        self.results = 0
        monkeypatch.setattr(quality, "train", self._train)
        monkeypatch.setattr(quality, "reread", lambda *arguments: self._result(arguments[-1]))

    def _train(self, options: TrainOptions) -> None:
        self.trained.append(options.data)
        self._result(options.out)

    def _result(self, out: Path) -> None:
        self.results += 1
        write_json(out / "metrics.json", {"test": {"image_auroc": self.results / 100}})

    def __call__(self, *data: Path, more: Sequence[str] = ("--rungs", "RD")) -> list[Path]:
        """Measures them; returns the folders that were trained on."""
        self.trained.clear()
        where = ["--out", str(self.out), "--recipe", str(self.recipe), "--device", "cpu"]
        network = ["--backbone", BACKBONE, "--weights", str(self.weights)]
        assert main([*map(str, data), *where, *network, *more]) == 0
        return list(self.trained)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_folders_of_the_same_name_have_each_their_own_figures(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (make_dataset(tmp_path / name / "plate", good=12, test=2) for name in "ab")
    assert bench(first, second, tmp_path / "b/../b/plate") == [first, tmp_path / "b/../b/plate"]
    printed = capsys.readouterr().out
    blocks = [line for line in printed.splitlines() if line.startswith("plate in ")]
    assert blocks == [f"plate in {first}", f"plate in {tmp_path}/b/../b/plate"]
    figures = [line.split()[-4] for line in printed.splitlines() if line.startswith(("  RD", f"  {REREAD}"))]
    assert figures == ["0.0100", "0.0200", "0.0300", "0.0400"]


def test_results_are_kept_until_something_they_depend_on_changes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "plate", good=12, test=2)
    assert bench(data) == [data]
    first = capsys.readouterr().out
    assert "done anew" not in first
    assert bench(data) == []
    assert capsys.readouterr().out.strip() in first

    def anew() -> set[str]:
        """What the lines say has changed, of all three results."""
        assert bench(data) == [data]
        lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("; done anew")]
        assert [line.split(": made")[0].rsplit("/", 1)[1] for line in lines] == [
            "RD 0",
            f"{REREAD} 0",
            YARDSTICK,
        ]
        return {line.split("another ")[1].removesuffix("; done anew") for line in lines}

    teacher(bench.weights, seed=1)
    assert anew() == {"teacher"}
    (data / "test/good/000.png").write_bytes((data / "test/good/001.png").read_bytes())
    assert anew() == {"pictures"}
    monkeypatch.setattr(quality, "libraries", lambda: {"drd-inspect": "another"})
    assert anew() == {"program"}
    assert bench(data) == []


def test_a_stopped_result_goes_on_and_one_of_other_facts_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "RD 0"

    def stopped(out: Path) -> None:
        (out / "resume.safetensors").write_text("half")
        raise KeyboardInterrupt

    def going_on(out: Path) -> None:
        made.append((out / "resume.safetensors").exists())
        write_json(out / "metrics.json", {"test": {"image_auroc": 0.5}})

    made: list[bool] = []
    for second in ({"seed": 0}, {"seed": 1}):
        with pytest.raises(KeyboardInterrupt):
            kept(out, {"seed": 0}, stopped)
        assert kept(out, second, going_on) == {"image_auroc": 0.5}
        (out / "metrics.json").unlink()
    assert made == [True, False]


def test_rd_is_read_again_with_the_recipe_s_rule(tmp_path: Path) -> None:
    """The same network, so that only the rule differs."""
    recipe = PRESETS["quick"].model_copy(update={"backbone": BACKBONE, "height": 64, "width": 64})
    (dataset,) = open_all([make_dataset(tmp_path / "plate", good=12, test=2)], []).values()
    rd = ladder(recipe)["RD"].model_copy(update={"epochs": 1, "min_steps": 0})
    options = argparse.Namespace(weights=teacher(tmp_path / "teacher.safetensors"), device="cpu")
    learned, again = tmp_path / "RD", tmp_path / "again"
    for folder in (learned, again):
        folder.mkdir()
    train_rung(dataset, rd, 0, options, learned)
    reread(dataset, recipe, learned, torch.device("cpu"), again)

    checkpoint = load_checkpoint(learned)
    assert (checkpoint.recipe.memory, checkpoint.rule.normalise) == (0, False)
    drd, geometry = checkpoint.model(), checkpoint.geometry
    select = torch.from_numpy(read_frames([sample.path for sample in checkpoint.samples("select")], geometry))
    assert choose_rule(drd, recipe, select, 0)[0].rule.normalise
    results = score_images(drd.predict, [sample.path for sample in dataset.test], geometry)
    found = json.loads((again / "metrics.json").read_text())
    assert found == {"test": evaluate(dataset.test, results, geometry).quality.as_dict()}
    assert found != {"test": json.loads((learned / "metrics.json").read_text())["test"]}


def test_a_visa_root_is_measured_by_product(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = visa(tmp_path / "VisA", "pcb1", "pcb2", "cashew")
    assert bench(root, more=["--rungs", "RD", "--product", "pcb2", "pcb1"]) == [root, root]
    blocks = [line for line in capsys.readouterr().out.splitlines() if line in ("pcb1", "pcb2", "cashew")]
    assert blocks == ["pcb2", "pcb1"]


def test_products_are_those_of_visa_roots_only(tmp_path: Path) -> None:
    root, plate = visa(tmp_path / "VisA", "pcb1"), make_dataset(tmp_path / "plate", good=12, test=2)
    assert list(open_all([root, plate], ["pcb1"])) == ["pcb1", "plate"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["plate", "--rungs", "RD", "+ mfcf"], "--rungs: no '+ mfcf'; there are 'RD', '+ pseudo stream',"),
        (["VisA"], "VisA holds pcb1; name one with --product"),
        (["VisA", "--product", "pcb9"], "VisA holds pcb1; name one with --product"),
        (["plate", "--recipe", "slow"], "recipe 'slow' is not known"),
        (["plate/test/blot"], "no labelled test pictures of blot"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(
    wrong: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    visa(tmp_path / "VisA", "pcb1")
    make_dataset(tmp_path / "plate", good=12, test=2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "var").exists()


def test_test_pictures_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no labelled test pictures of good"):
        open_all([make_dataset(tmp_path / "plate", good=12, test=0) / "train/good"], [])


def test_a_ladder_whose_top_is_rd_has_nothing_to_read_again() -> None:
    assert list(ladder(PRESETS["rd"])) == ["RD"]
    assert PRESETS["rd"].rule == ladder(PRESETS["fast"])["RD"].rule
