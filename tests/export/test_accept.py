"""Engines of correct, slightly wrong and wrong networks, compared with the checkpoint."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.accept import verify_engines
from export.bundle.deviations import Reference
from export.bundle.engines.engine import Engine, EngineFailed, Prediction
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.manifest import BundleError, EngineEntry, GoldenFrame, Thresholds
from export.bundle.reading import FrameFailed
from export.bundle.scale import Scale
from export.golden import Golden, spread
from export.parity import (
    Baseline,
    EngineParity,
    ParityError,
    check_float16_graph,
    check_parity,
    is_flip,
)
from export.validation import validation_frames
from tests.bundles import grey_level_network, plain_frame
from training.geometry import Geometry

SCALE = Scale(median=0.0, threshold=0.5)
THRESHOLDS = Thresholds(image=SCALE, pixel=SCALE, calibration_size=100, max_false_reject=0.01, promised=True)
LEVELS = (20, 120, 240, 125, 130)


def golden() -> Golden:
    """Plain frames with the outputs of the correct network."""
    frames = np.stack([plain_frame(level) for level in LEVELS])
    scores = (np.array(LEVELS) / 255).astype(np.float32)
    heatmaps = np.repeat(scores, 32 * 32).reshape(-1, 32, 32)
    entries = tuple(
        GoldenFrame(file=f"golden/{level}.png", kind="good", source=f"{level}.jpg", raw_score=level / 255)
        for level in LEVELS
    )
    return Golden(frames, scores, heatmaps, entries)


def validation(difference: float = 0.0) -> Reference:
    """The same frames; one of the checkpoint's scores differs by `difference`."""
    same = golden()
    same.scores[1] += difference
    return same


def baseline(root: Path, difference: float = 0.0) -> Baseline:
    return Baseline(root, Geometry(32, 32), golden(), validation(difference), THRESHOLDS)


def parity_of(root: Path, bias: float = 0.0, drift: float = 0.0) -> EngineParity:
    onnx.save(grey_level_network((32, 32), bias, drift), root / "model.onnx")
    entry = EngineEntry(id="onnx-f32", file="model.onnx")
    return check_parity(entry, baseline(root))


def test_an_equal_engine_is_verified(tmp_path: Path) -> None:
    parity = parity_of(tmp_path)
    assert (parity.status, parity.flips, parity.batch_sizes) == ("verified", 0, (1, 2, 4, 8))
    assert parity.max_score_deviation is not None
    assert parity.max_score_deviation < 1e-5
    assert parity.guard_band == 2 * parity.max_score_deviation


def test_deviations_are_on_the_score_scale(tmp_path: Path) -> None:
    """A raw value of 20/255 + 0.004 scores 0.004 more; above the threshold the scale is flatter."""
    parity = parity_of(tmp_path, bias=0.004)
    assert parity.max_score_deviation == pytest.approx(0.004, abs=1e-5)
    assert parity.max_heatmap_deviation == pytest.approx(0.004, abs=1e-5)
    assert parity.guard_band == pytest.approx(0.008, abs=2e-5)


def test_every_position_in_the_batch_is_tried(tmp_path: Path) -> None:
    """The network adds 0.001 per position: only the frames but 240 at the eighth show the whole deviation."""
    assert parity_of(tmp_path, drift=0.001).max_score_deviation == pytest.approx(0.007, abs=1e-5)


def test_a_flip_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        parity_of(tmp_path, bias=0.04)
    assert str(caught.value) == (
        "onnx-f32 reverses the verdict on golden/125.png (125.jpg) at batch size 1: "
        "the checkpoint scores 0.4902, the engine 0.5285"
    )


@pytest.fixture
def any_engine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine's graph is run by ONNX Runtime, on any machine."""

    def opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        return OnnxRuntimeEngine(root / entry.file, geometry, CPU)

    monkeypatch.setattr("export.parity.open_engine", opened)


@pytest.mark.usefixtures("any_engine_here")
@pytest.mark.parametrize("name", ["onnx-f32", "openvino-bf16"])
def test_a_flip_by_any_other_engine_ends_the_export(tmp_path: Path, name: str) -> None:
    onnx.save(grey_level_network((32, 32), bias=0.04), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=f"{name} reverses the verdict on golden/125.png"):
        verify_engines([EngineEntry(id=name, file="model.onnx")], baseline(tmp_path))


@pytest.mark.usefixtures("any_engine_here")
@pytest.mark.parametrize(
    ("bias", "difference", "reason"),
    [
        (0.04, 0.0, "reverses the verdict on golden/125.png"),
        (0.0, 0.03, "it would need a guard band wider than 0.02"),
        (None, 0.0, "model.int8.onnx"),
    ],
)
def test_an_int8_engine_is_left_out_if_it_flips_deviates_or_does_not_run(
    tmp_path: Path, bias: float | None, difference: float, reason: str
) -> None:
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    if bias is None:
        (tmp_path / "model.int8.onnx").write_bytes(b"not a graph")
    else:
        onnx.save(grey_level_network((32, 32), bias), tmp_path / "model.int8.onnx")
    good = EngineEntry(id="onnx-f32", file="model.onnx")
    flips = EngineEntry(id="openvino-int8", file="model.int8.onnx")
    (first, *_), left_out = verify_engines([flips, good], baseline(tmp_path, difference))
    assert first.entry.id == "onnx-f32"
    assert first.parity.ms_per_image is not None
    assert left_out.keys() == {"openvino-int8"}
    assert reason in left_out["openvino-int8"]


@pytest.mark.parametrize(
    ("biases", "count", "reason"),
    [
        ({3: 0.004, 20: 0.0}, 3, None),  # narrow enough
        ({3: 0.006, 20: 0.0}, 20, None),
        ({3: 0.006, 20: 0.008}, 3, None),
        ({3: 0.006, 20: 0.04}, 3, None),
        ({3: 0.04, 20: 0.0}, 20, None),  # the first configuration even reverses a verdict
        ({3: 0.015, 20: 0.014}, 20, "it would need a guard band wider than 0.02"),
    ],
)
def test_more_of_a_bfloat16_engine_stays_in_float32_where_it_has_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, biases: dict[int, float], count: int, reason: str | None
) -> None:
    def open_anywhere(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        onnx.save(grey_level_network((32, 32), biases[entry.float32_convolutions]), root / "model.onnx")
        return OnnxRuntimeEngine(root / "model.onnx", geometry, CPU)

    monkeypatch.setattr("export.parity.open_engine", open_anywhere)
    bf16 = EngineEntry(id="openvino-bf16", file="model.onnx")
    (candidate,), left_out = verify_engines([bf16], baseline(tmp_path))
    assert candidate.entry.float32_convolutions == count
    assert left_out.get("openvino-bf16") == reason
    assert candidate.parity.guard_band == pytest.approx(2 * biases[count], abs=1e-4)


class Failing:
    """Opens, and fails with a message of several lines."""

    def run(self, frames: NDArray[np.uint8]) -> Prediction:
        raise RuntimeError("no memory\n  at: line 1\n")

    def close(self) -> None:
        pass


def test_an_engine_that_opens_but_fails_is_tried_in_its_other_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is left out, with the reason, not claimed to run elsewhere."""
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    fails = {3}

    def opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        if entry.float32_convolutions in fails:
            return Failing()
        return OnnxRuntimeEngine(root / entry.file, geometry, CPU)

    monkeypatch.setattr("export.parity.open_engine", opened)
    bf16 = EngineEntry(id="openvino-bf16", file="model.onnx")
    (candidate,), left_out = verify_engines([bf16], baseline(tmp_path))
    assert candidate.parity.status == "verified"
    assert (candidate.entry.float32_convolutions, left_out) == (20, {})
    fails.add(20)
    assert verify_engines([bf16], baseline(tmp_path)) == ([], {"openvino-bf16": "no memory at: line 1"})


def test_a_bfloat16_engine_that_cannot_be_run_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would tell which guard band it needs where it runs."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    entry = EngineEntry(id="openvino-bf16", file="model.onnx")
    assert verify_engines([entry], baseline(tmp_path)) == ([], {entry.id: "openvino is not installed"})


def test_engines_that_do_not_run_side_by_side_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is enough for two engines; the second can't run beside the first."""
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    alive = list[Engine]()

    class Large(OnnxRuntimeEngine):
        def run(self, frames: NDArray[np.uint8]) -> Prediction:
            if self is not alive[0]:
                raise RuntimeError("no memory")
            return super().run(frames)

        def close(self) -> None:
            alive.remove(self)

    def opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        if len(alive) == 2:
            raise BundleError("no memory")
        alive.append(Large(root / entry.file, geometry, CPU))
        return alive[-1]

    monkeypatch.setattr("export.parity.open_engine", opened)
    names = ("onnx-cuda-fp16", "openvino-f32", "onnx-f32")
    entries = [EngineEntry(id=name, file="model.onnx") for name in (names[2], *names[:2])]
    candidates, left_out = verify_engines(entries, baseline(tmp_path))
    assert [(each.entry.id, each.parity.ms_per_image is not None) for each in candidates] == [
        ("onnx-f32", True), ("onnx-cuda-fp16", False), ("openvino-f32", False),
    ]  # fmt: skip
    assert left_out == {}


def test_engines_for_a_gpu_come_first_and_then_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.onnx", "model.fp16.onnx"):
        onnx.save(grey_level_network((32, 32)), tmp_path / name)

    class Slow(OnnxRuntimeEngine):
        def run(self, frames: NDArray[np.uint8]) -> Prediction:
            return [super(Slow, self).run(frames) for _ in range(50)][-1]

    def opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        if entry.id in ("openvino-bf16", "onnx-cuda-fp16"):
            raise BundleError("not on this machine")
        kind = OnnxRuntimeEngine if entry.id == "openvino-f32" else Slow
        return kind(root / entry.file, geometry, CPU)

    monkeypatch.setattr("export.parity.open_engine", opened)
    entries = [
        EngineEntry(id=name, file="model.onnx") for name in ("openvino-bf16", "onnx-f32", "openvino-f32")
    ]
    entries.append(EngineEntry(id="onnx-cuda-fp16", file="model.fp16.onnx"))
    candidates, left_out = verify_engines(entries, baseline(tmp_path))
    assert [each.entry.id for each in candidates] == ["onnx-cuda-fp16", "openvino-f32", "onnx-f32"]
    assert left_out == {"openvino-bf16": "not on this machine"}
    assert candidates[0].parity.reason.startswith("not on this machine; its graph on the CPU: ")


@pytest.mark.usefixtures("any_engine_here")
@pytest.mark.parametrize(
    ("difference", "band", "reason"),
    [
        (0.0, 0.004, None),
        (0.01, 0.012, None),  # more than the 0.004 of the golden frames
        (0.03, 0.032, "it would need a guard band wider than 0.02"),
    ],
)
def test_the_guard_band_covers_the_validation_frames_too(
    tmp_path: Path, difference: float, band: float, reason: str | None
) -> None:
    onnx.save(grey_level_network((32, 32), bias=-0.002), tmp_path / "model.onnx")
    entry = EngineEntry(id="openvino-bf16", file="model.onnx")
    parity = check_parity(entry, baseline(tmp_path, difference))
    assert parity.rejection == reason
    assert parity.max_score_deviation == pytest.approx(0.002, abs=1e-4)
    assert parity.guard_band == pytest.approx(band, abs=1e-4)


@pytest.mark.usefixtures("any_engine_here")
@pytest.mark.parametrize(("off", "reason"), [(0.01, None), (0.03, "its heatmap deviates by more than 0.02")])
def test_heatmaps_are_compared_on_the_validation_frames_too(
    tmp_path: Path, off: float, reason: str | None
) -> None:
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    moved = replace(validation(), heatmaps=golden().heatmaps + np.float32(off))
    entry = EngineEntry(id="openvino-bf16", file="model.onnx")
    parity = check_parity(entry, replace(baseline(tmp_path), validation=moved))
    assert parity.rejection == reason
    assert parity.max_heatmap_deviation == pytest.approx(off, abs=1e-4)
    assert parity.guard_band == pytest.approx(0, abs=1e-4)


@pytest.mark.usefixtures("any_engine_here")
def test_an_engine_that_fails_on_a_validation_frame_must_be_left_out(tmp_path: Path) -> None:
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    entry = EngineEntry(id="openvino-bf16", file="model.onnx")
    of_another_size = Reference(
        np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1, np.float32), np.zeros((1, 4, 4), np.float32)
    )
    candidates, left_out = verify_engines([entry], replace(baseline(tmp_path), validation=of_another_size))
    assert candidates == []
    assert "invalid dimensions" in left_out["openvino-bf16"]
    assert "\n" not in left_out["openvino-bf16"]


@pytest.mark.parametrize(
    ("bias", "difference", "reason"),
    [
        (0.0, 0.01, None),
        (0.0, 0.03, "it would need a guard band wider than 0.02"),
        (
            0.04,
            0.0,
            "model.fp16.onnx reverses the verdict on golden/125.png (125.jpg) at batch size 1: "
            "the checkpoint scores 0.4902, the engine 0.5285",
        ),
    ],
)
def test_the_graph_of_an_engine_that_needs_a_gpu_is_checked_on_the_cpu(
    tmp_path: Path, bias: float, difference: float, reason: str | None
) -> None:
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    onnx.save(grey_level_network((32, 32), bias), tmp_path / "model.fp16.onnx")
    here = EngineEntry(id="onnx-f32", file="model.onnx")
    elsewhere = EngineEntry(id="onnx-cuda-fp16", file="model.fp16.onnx")
    candidates, left_out = verify_engines([here, elsewhere], baseline(tmp_path, difference))
    assert left_out == ({"onnx-cuda-fp16": reason} if reason else {})
    parities = {each.entry.id: each.parity for each in candidates}
    assert parities["onnx-f32"].status == "verified"
    if bias:
        assert "onnx-cuda-fp16" not in parities
    else:  # where it serves, its guard band is no narrower than what its graph needs here
        assert parities["onnx-cuda-fp16"].status == "not_run"
        assert parities["onnx-cuda-fp16"].guard_band == pytest.approx(difference, abs=1e-5)


def grey_level_network_in_half(factor: float) -> onnx.ModelProto:
    """Multiplies the level by the square of `factor`, in float16, and divides again."""
    model = grey_level_network((32, 32))
    nodes = {node.name or node.output[0]: node for node in model.graph.node}
    steps = [
        helper.make_node("Cast", ["level"], ["0.half"], to=TensorProto.FLOAT16),
        *(
            helper.make_node(kind, [f"{place}.half", "factor"], [f"{place + 1}.half"])
            for place, kind in enumerate(("Mul", "Mul", "Div", "Div"))
        ),
        helper.make_node("Cast", ["4.half"], ["heatmap"], to=TensorProto.FLOAT),
    ]
    place = list(model.graph.node).index(nodes["heatmap"])
    rest = [*model.graph.node[:place], *steps, *model.graph.node[place + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(rest)
    model.graph.initializer.append(numpy_helper.from_array(np.array([factor], np.float16), "factor"))
    return model


def test_the_float16_graph_is_rounded_on_the_cpu_as_on_a_gpu(tmp_path: Path) -> None:
    """The provider for CPUs does not round between two operations: it would see neither."""
    onnx.save(grey_level_network_in_half(3), tmp_path / "model.fp16.onnx")
    parity = check_float16_graph(baseline(tmp_path))
    assert parity.guard_band is not None
    assert 4e-4 < parity.guard_band < 4e-3
    assert parity.rejection is None
    onnx.save(grey_level_network_in_half(300), tmp_path / "model.fp16.onnx")
    with pytest.raises(EngineFailed) as caught:
        check_float16_graph(baseline(tmp_path))
    assert str(caught.value) == "its output is NaN or infinite, since values in it overflow float16"


def test_the_validation_frames_are_of_good_damaged_and_defective_parts(tmp_path: Path) -> None:
    def grey(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        heatmaps = frames.mean(3, dtype=np.float32) / np.float32(255)
        return heatmaps, heatmaps.mean((1, 2))

    noise = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(100)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    few = validation_frames(paths[:3], paths[3:5], Geometry(32, 32), grey)
    assert few.frames.shape == (3 + 3 + 2, 32, 32, 3)
    assert (few.frames[:3] != few.frames[5:]).any((1, 2, 3)).all()
    np.testing.assert_allclose(few.scores, few.frames.mean((1, 2, 3)) / 255, rtol=1e-5)
    assert np.array_equal(few.heatmaps, grey(few.frames)[0][:, ::4, ::4])
    assert len(validation_frames(paths, paths, Geometry(32, 32), grey).frames) == 3 * 48


def test_of_many_frames_a_few_from_all_over_are_taken() -> None:
    """Not the first ones, which may all show one kind of defect."""
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread([3, 1, 2], 4) == [3, 1, 2]


@pytest.mark.parametrize("of_scores", [False, True])
def test_a_validation_frame_for_which_the_checkpoint_gives_nan_is_named(
    tmp_path: Path, of_scores: bool
) -> None:
    def broken(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        heatmaps, scores = np.zeros(frames.shape[:3], np.float32), np.zeros(len(frames), np.float32)
        (scores if of_scores else heatmaps)[frames.min((1, 2, 3)) > 200] = np.nan
        return heatmaps, scores

    Image.fromarray(plain_frame(10)).save(tmp_path / "good.png")
    Image.fromarray(plain_frame(240)).save(tmp_path / "blot.png")
    with pytest.raises(FrameFailed, match=r"blot\.png: the network's output for it, .* is NaN or infinite$"):
        validation_frames([tmp_path / "good.png"], [tmp_path / "blot.png"], Geometry(32, 32), broken)


def test_a_flip_that_only_a_full_batch_shows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="at batch size 8"):
        parity_of(tmp_path, drift=0.009)


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_an_engine_whose_output_is_not_finite_fails(tmp_path: Path, bias: float) -> None:
    with pytest.raises(EngineFailed, match="its output is NaN or infinite"):
        parity_of(tmp_path, bias)


def test_an_engine_with_a_hole_in_its_heatmap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores are right, and NaN is above no limit."""

    class Holed(OnnxRuntimeEngine):
        def run(self, frames: NDArray[np.uint8]) -> Prediction:
            prediction = super().run(frames)
            prediction.heatmap[-1, 3, 5] = np.nan
            return prediction

    def opened(entry: EngineEntry, root: Path, geometry: Geometry) -> Engine:
        return Holed(root / entry.file, geometry, CPU)

    monkeypatch.setattr("export.parity.open_engine", opened)
    with pytest.raises(EngineFailed, match="its output is NaN or infinite"):
        parity_of(tmp_path)


def test_an_engine_whose_heatmap_deviates_must_be_left_out(tmp_path: Path) -> None:
    """Its scores are right, but masks and regions would be wrong."""
    onnx.save(grey_level_network((32, 32)), tmp_path / "model.onnx")
    entry, right = EngineEntry(id="onnx-f32", file="model.onnx"), golden()
    for off, rejection in ((0.01, None), (0.03, "its heatmap deviates by more than 0.02")):
        moved = replace(right, heatmaps=right.heatmaps + np.float32(off))
        parity = check_parity(entry, replace(baseline(tmp_path), golden=moved))
        assert (parity.status, parity.rejection) == ("verified", rejection)
        assert parity.max_heatmap_deviation == pytest.approx(off, abs=1e-3)


def test_an_engine_that_cannot_be_opened_is_not_claimed_equal(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    entry = EngineEntry(id="onnx-f32", file="model.onnx")
    parity = check_parity(entry, baseline(tmp_path))
    assert (parity.status, parity.flips, parity.guard_band) == ("not_run", None, None)
    assert "model.onnx" in parity.reason


@pytest.mark.parametrize(
    ("reference", "score", "flip"),
    [(0.49, 0.51, False), (0.49, 0.53, True), (0.51, 0.47, True), (0.6, 0.49, False), (0.1, 0.2, False)],
)
def test_flip_by_hand(reference: float, score: float, flip: bool) -> None:
    assert is_flip(reference, score) is flip
