"""The whole road on the embedded example with its real teacher: pictures → checkpoint → bundle → verdicts."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from export.cli import main as export
from export.evaluate_cli import main as evaluate
from service.rpc.pb import inspection_pb2, inspection_pb2_grpc
from tests.e2e.serving import Running, serving
from tests.threads import on_all_cores
from training.cli import main as train
from training.example import lay_out

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch's training: enough to tell most dead cells from good ones."""
    root = tmp_path_factory.mktemp("road")
    lay_out(root / "elpv-mono")
    checkpoint = str(root / "checkpoint")
    bundle, data, figures = root / "models/elpv-mono/1", root / "elpv-mono", root / "figures.json"
    with on_all_cores():
        assert train([str(data), "--product", "elpv-mono", "--out", checkpoint, "--recipe", "quick",
                      "--epochs", "1"]) == 0  # fmt: skip
        assert export([checkpoint, "--to", str(root / "models")]) == 0
        assert evaluate([str(bundle), str(data), "--json", str(figures)]) == 0
    return root


@pytest.fixture(scope="module")
def running(road: Path) -> Iterator[Running]:
    with serving(road / "models") as service:
        yield service


def test_one_epoch_already_tells_cells_apart(road: Path) -> None:
    figures = json.loads((road / "figures.json").read_text())
    assert (figures["n_good"], figures["n_defective"]) == (120, 313)
    assert figures["image_auroc"] > 0.88
    assert figures["false_reject_rate"] <= 0.05


def test_checkpoint_and_bundle_have_the_same_auroc(road: Path) -> None:
    trained = json.loads((road / "checkpoint/metrics.json").read_text())["test"]["image_auroc"]
    assert json.loads((road / "figures.json").read_text())["image_auroc"] == pytest.approx(trained, abs=1e-3)


def test_rest_grpc_and_evaluate_give_the_same_raw_score(road: Path, running: Running) -> None:
    offline = {image["name"]: image for image in json.loads((road / "figures.json").read_text())["images"]}
    with grpc.insecure_channel(running.target) as channel:
        stub = inspection_pb2_grpc.InspectionServiceStub(channel)
        for name in list(offline)[::60]:
            picture = (road / "elpv-mono" / name).read_bytes()
            rest = httpx.post(
                f"{running.url}/v1/inspect", params={"product": "elpv-mono"}, content=picture
            ).json()
            rpc = stub.Inspect(inspection_pb2.InspectRequest(image=picture, product="elpv-mono"))
            assert rest["raw_score"] == pytest.approx(offline[name]["raw_score"], abs=1e-5)
            assert rpc.raw_score == pytest.approx(offline[name]["raw_score"], abs=1e-5)
            assert rest["verdict"] == rpc.verdict == offline[name]["verdict"]


def test_dead_cells_are_ng_and_their_heat_is_where_they_are_dead(road: Path, running: Running) -> None:
    figures = json.loads((road / "figures.json").read_text())["images"]
    worst = max(figures, key=lambda image: float(image["raw_score"]))
    assert "defective" in worst["name"]
    assert worst["verdict"] in {"NG", "REVIEW"}
    picture = (road / "elpv-mono" / worst["name"]).read_bytes()
    answer = httpx.post(f"{running.url}/v1/inspect", params={"product": "elpv-mono"}, content=picture).json()
    assert answer["regions"]
