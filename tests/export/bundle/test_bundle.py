import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from export.bundle import Bundle, BundleError
from export.bundle.deviations import cyclic_windows
from export.bundle.scale import Scale
from tests.bundles import GOLDEN_LEVELS, edit_manifest, grey_level_network, make_bundle, plain_frame
from training.files import file_digest

SIZE = (32, 64)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_every_frame_gets_its_own_answer(tmp_path: Path, count: int) -> None:
    predictor = Bundle.open(make_bundle(tmp_path, size=SIZE)).start()
    levels = [30 * place for place in range(count)]
    prediction = predictor.predict(np.stack([plain_frame(level, SIZE) for level in levels]))
    assert prediction.score == pytest.approx(np.array(levels) / 255, abs=1e-5)
    assert prediction.heatmap.shape == (count, *SIZE)
    assert prediction.heatmap[:, 5, 7] == pytest.approx(np.array(levels) / 255, abs=1e-5)
    predictor.close()


START = """
import sys
from pathlib import Path
from export.bundle import Bundle
Bundle.open(Path(sys.argv[1])).start("onnx-f32")
"""


def test_onnx_runtime_sends_no_telemetry(tmp_path: Path) -> None:
    """It keeps the device's id in the user's home, unless a variable says that this is a build server."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "VIRTUAL_ENV")}
    command = [sys.executable, "-c", START, str(make_bundle(tmp_path / "models"))]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], env=environment | {"HOME": str(home)})
    assert list(home.iterdir()) == []


def test_start_gives_engine_guard_band_and_deviation(tmp_path: Path) -> None:
    predictor = Bundle.open(make_bundle(tmp_path, guard_band=0.004)).start()
    assert predictor.engine_id == "onnx-f32"
    assert predictor.batch_sizes == (1, 2, 4, 8)
    assert predictor.deviation < 1e-5
    assert predictor.guard_band == 0.004
    assert predictor.skipped == {}


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (0.3, "golden/0.png at batch size 1 scores 0.3000, not 0.0000"),
        (0.001, "golden/0.png at batch size 1 scores 0.0010, not 0.0000"),
        (math.nan, "its output for golden frames at batch size 1 is NaN or infinite"),
    ],
)
def test_an_engine_with_different_scores_is_refused(tmp_path: Path, bias: float, message: str) -> None:
    bundle = Bundle.open(make_bundle(tmp_path, network=grey_level_network((32, 32), bias=bias)))
    with pytest.raises(BundleError, match="no engine can be used") as caught:
        bundle.start()
    assert message in str(caught.value)


def test_an_engine_whose_heatmaps_differ_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path, golden_map_bias=0.001))
    with pytest.raises(BundleError, match=r"golden/0\.png at batch size 1: its heatmap deviates by 0\.0010"):
        bundle.start()


def test_an_engine_whose_heatmap_differs_in_one_place_is_refused(tmp_path: Path) -> None:
    network = grey_level_network((32, 32))
    (bias,) = (one for one in network.graph.initializer if one.name == "bias")
    pixels = np.zeros((32, 32), np.float32)
    pixels[8, 12] = 0.01
    bias.CopyFrom(numpy_helper.from_array(pixels, "bias"))
    with pytest.raises(BundleError, match=r"golden/0\.png at batch size 1: its heatmap deviates by 0\.0100"):
        Bundle.open(make_bundle(tmp_path, network=network)).start()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_engine_with_a_hole_between_the_compared_pixels_is_refused(tmp_path: Path, value: float) -> None:
    """Every frame would fail, though another engine or version could have judged it."""
    network = grey_level_network((32, 32))
    hole = np.zeros((32, 32), np.float32)
    hole[3, 5] = value
    network.graph.initializer.append(numpy_helper.from_array(hole, "hole"))
    for node in network.graph.node:
        node.output[:] = ["whole" if name == "heatmap" else name for name in node.output]
        node.input[:] = ["whole" if name == "heatmap" else name for name in node.input]
    network.graph.node.append(helper.make_node("Add", ["whole", "hole"], ["heatmap"]))
    with pytest.raises(BundleError, match="at batch size 1 is NaN or infinite"):
        Bundle.open(make_bundle(tmp_path, network=network)).start()


def test_an_engine_that_overflows_is_refused_though_infinity_scores_1(tmp_path: Path) -> None:
    network = grey_level_network((32, 32))
    network.graph.initializer.append(numpy_helper.from_array(np.array(3e38, np.float32), "most"))
    for node in network.graph.node:
        node.output[:] = ["finite" if name == "score" else name for name in node.output]
    network.graph.node.extend(
        [
            helper.make_node("Mul", ["finite", "most"], ["large"]),
            helper.make_node("Add", ["large", "large"], ["overflown"]),  # above 0.57
            helper.make_node("Sub", ["overflown", "large"], ["again"]),
            helper.make_node("Div", ["again", "most"], ["score"]),
        ]
    )
    narrow = Scale(median=0.0, threshold=0.005)
    with pytest.raises(BundleError, match="at batch size 1 is NaN or infinite"):
        Bundle.open(make_bundle(tmp_path, scale=narrow, guard_band=0.01, network=network)).start()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_frame_takes_every_place_in_a_batch(count: int) -> None:
    windows = list(cyclic_windows(count, (1, 2, 4), every=True))
    for size in (1, 2, 4):
        seen = {
            (place, frame) for window in windows if len(window) == size for place, frame in enumerate(window)
        }
        assert seen == set(product(range(size), range(count)))


def test_an_engine_not_run_at_export_must_give_the_same_heatmap(tmp_path: Path) -> None:
    Bundle.open(make_bundle(tmp_path / "near", guard_band=None, golden_map_bias=0.01)).start()
    far = Bundle.open(make_bundle(tmp_path / "far", guard_band=None, golden_map_bias=0.03))
    with pytest.raises(BundleError, match=r"its heatmap deviates by 0\.0300"):
        far.start()


def test_an_engine_whose_output_depends_on_the_batch_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path, network=grey_level_network((32, 32), drift=0.01)))
    with pytest.raises(BundleError, match="at batch size 2"):
        bundle.start("onnx-f32")


def test_no_engine_serves_with_more_than_the_widest_guard_band(tmp_path: Path) -> None:
    """Within its own band, but twice this deviation would be a band of 0.03."""
    bundle = Bundle.open(
        make_bundle(tmp_path, guard_band=0.02, network=grey_level_network((32, 32), bias=0.015))
    )
    with pytest.raises(BundleError, match=r"± 0\.0100"):
        bundle.start("onnx-f32")


def test_an_engine_not_run_at_export_gets_its_guard_band_from_the_start(tmp_path: Path) -> None:
    network = grey_level_network((32, 32), bias=0.005)
    predictor = Bundle.open(make_bundle(tmp_path, guard_band=None, network=network)).start()
    assert predictor.deviation == pytest.approx(0.005, abs=1e-5)
    assert predictor.guard_band == 2 * predictor.deviation


def test_its_guard_band_is_no_narrower_than_export_saw_on_the_cpu(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, guard_band=None, network=grey_level_network((32, 32), bias=0.005))
    edit_manifest(path, lambda facts: facts["engines"][0].update(guard_band=0.015))
    assert Bundle.open(path).start().guard_band == 0.015


def test_no_engine_serves_whose_heatmap_is_too_far_from_the_checkpoint_s(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, golden_map_bias=0.03)
    edit_manifest(path, lambda facts: facts["engines"][0].update(heatmap_deviation=0.03))
    with pytest.raises(BundleError, match=r"its heatmap deviates by 0\.03000; allowed are 0\.02000"):
        Bundle.open(path).start()


def test_an_engine_not_run_at_export_must_fit_the_widest_guard_band(tmp_path: Path) -> None:
    network = grey_level_network((32, 32), bias=0.011)
    with pytest.raises(BundleError, match="no engine can be used"):
        Bundle.open(make_bundle(tmp_path, guard_band=None, network=network)).start()


def test_auto_takes_the_first_engine_that_runs_and_gives_reasons_for_the_others(tmp_path: Path) -> None:
    path = make_bundle(tmp_path)

    def prefer_an_unknown_one(facts: dict[str, Any]) -> None:
        facts["engines"].insert(0, {"id": "abacus-f32", "file": "golden/0.png"})

    edit_manifest(path, prefer_an_unknown_one)
    bundle = Bundle.open(path)
    predictor = bundle.start()
    assert predictor.engine_id == "onnx-f32"
    assert predictor.skipped == {"abacus-f32": "this program has no engine abacus-f32"}
    with pytest.raises(BundleError, match="has no engine abacus-f32"):
        bundle.start("abacus-f32")
    with pytest.raises(BundleError, match=r"no engine onnx-f64, only abacus-f32, onnx-f32"):
        bundle.start("onnx-f64")


def unopenable(root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Bundle:
    """A bundle whose preferred engine raises `error`."""

    def opened(*_: object) -> None:
        raise error

    monkeypatch.setattr("export.bundle.engines.opening.OpenVinoEngine", opened)
    path = make_bundle(root)
    edit_manifest(
        path, lambda facts: facts["engines"].insert(0, {"id": "openvino-f32", "file": "model.onnx"})
    )
    return Bundle.open(path)


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, OSError])
def test_auto_goes_on_where_a_runtime_fails_in_an_unusual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As a library of TensorRT 8 does, which lacks the functions that tell its version."""
    predictor = unopenable(tmp_path, monkeypatch, error("undefined symbol")).start()
    assert predictor.engine_id == "onnx-f32"
    assert predictor.skipped == {"openvino-f32": f"can't be opened: {error.__name__}: undefined symbol"}


def test_auto_does_not_go_on_to_a_slower_engine_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may pass, and the service tries again."""
    bundle = unopenable(tmp_path, monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        bundle.start()


def test_a_graph_for_another_input_size_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path, network=grey_level_network((64, 64))))
    with pytest.raises(BundleError, match=r"model\.onnx does not take frames of 32") as caught:
        bundle.start()
    assert "\n" not in str(caught.value)


def test_a_golden_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    Image.fromarray(plain_frame(40, (32, 64))).save(path / "golden/40.png")
    digest = file_digest(path / "golden/40.png")
    edit_manifest(path, lambda facts: facts["files"].update({"golden/40.png": digest}))
    with pytest.raises(BundleError, match="a golden frame does not have the network's input size"):
        Bundle.open(path).start()


def test_golden_heatmaps_of_another_size_are_refused(tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    np.save(path / "golden/heatmaps.npy", np.zeros((4, 1, 1), np.float32))
    digest = file_digest(path / "golden/heatmaps.npy")
    edit_manifest(path, lambda facts: facts["files"].update({"golden/heatmaps.npy": digest}))
    with pytest.raises(BundleError, match=r"holds float32 \(4, 1, 1\), not a map per golden frame"):
        Bundle.open(path).start()


def test_golden_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = Bundle.open(make_bundle(tmp_path)).golden_frames()
    assert frames.tolist() == [plain_frame(level).tolist() for level in GOLDEN_LEVELS]
