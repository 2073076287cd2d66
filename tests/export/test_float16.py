"""The float16 graph: float16 in the networks, float32 elsewhere, and nearly the same outputs."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from export.bundle import Bundle
from export.bundle.tensors import FRAMES, OUTPUTS, STUDENT, TEACHER
from export.float16 import simulate_float16


@pytest.fixture(scope="module")
def half(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported / "model.fp16.onnx")


def test_networks_are_float16_and_the_rest_float32(half: onnx.ModelProto) -> None:
    typed = infer_shapes(half, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.output)}
    types |= {tensor.name: tensor.data_type for tensor in typed.initializer}
    networks = [node for node in typed.node if node.op_type in ("Conv", "ConvTranspose", "Relu")]
    after = [node for node in typed.node if node.op_type == "MatMul"]
    assert len(after) == 7  # three in the memory, one for the rows of each map, one for all columns
    assert len(networks) > 40
    assert {types[name] for node in networks for name in node.input} == {TensorProto.FLOAT16}
    assert {types[name] for node in after for name in node.input} == {TensorProto.FLOAT}
    assert {types[name] for name in (*TEACHER[1:], *STUDENT[1:], *OUTPUTS)} == {TensorProto.FLOAT}
    sums = [node for node in typed.node if node.op_type.startswith("Reduce")]
    assert {types[node.output[0]] for node in sums} == {TensorProto.FLOAT}


def test_frames_are_cast_before_anything_is_computed(half: onnx.ModelProto) -> None:
    """TensorRT supports no other operation on uint8."""
    readers = [node.op_type for node in half.graph.node if FRAMES in node.input]
    assert readers == ["Cast"]


def test_it_has_half_the_size_and_nearly_the_same_scores(exported: Path) -> None:
    whole, half = exported / "model.onnx", exported / "model.fp16.onnx"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    bundle = Bundle.open(exported)
    scale, frames = bundle.manifest.thresholds.image, bundle.golden_frames()
    scores = [
        scale.scores(onnxruntime.InferenceSession(path).run(["score"], {"frames": frames})[0])
        for path in (whole, half)
    ]
    deviation = np.abs(scores[0] - scores[1]).max()
    assert 1e-7 < deviation < 0.01  # not 0, which would be the same graph under another name


def test_every_float16_value_is_rounded_where_the_provider_would_not() -> None:
    """By hand: 2049 + 0 is 2048 in float16, and 300 · 2049 infinite, if only for a moment."""
    weights = {"scale": 300, "back": 1 / 300, "nothing": 0}
    nodes = [
        helper.make_node("Cast", ["given"], ["value.half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["value.half", "nothing"], ["same.half"]),
        helper.make_node("Mul", ["value.half", "scale"], ["large.half"]),
        helper.make_node("Mul", ["large.half", "back"], ["small.half"]),
        helper.make_node("Cast", ["same.half"], ["sum"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["small.half"], ["product"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("sum", "product")],
        [numpy_helper.from_array(np.array([value], np.float16), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(simulate_float16(model).SerializeToString())
    total, product = session.run(["sum", "product"], {"given": np.array([2049, 100], np.float32)})
    assert total.tolist() == [2048, 100]
    assert product[0] == np.inf
    assert product[1] == pytest.approx(100, rel=1e-3)


def test_the_roundings_survive_onnx_runtime_s_optimiser(half: onnx.ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file depends on this CPU
    model = simulate_float16(half)
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    given, left = (roundings(each) for each in (model, onnx.load(tmp_path / "optimised.onnx")))
    assert left == given
    assert given > 40


def roundings(model: onnx.ModelProto) -> int:
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    return sum(node.attribute[0].i == TensorProto.FLOAT16 for node in casts)


def test_an_engine_that_needs_a_gpu_is_not_claimed_equal(exported: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA: tests/gpu")
    (entry,) = (entry for entry in Bundle.open(exported).manifest.engines if entry.id == "onnx-cuda-fp16")
    assert (entry.file, entry.heatmap_deviation) == ("model.fp16.onnx", None)
    assert entry.guard_band is not None  # what the graph needs on the CPU, and no narrower where it serves
    predictor = Bundle.open(exported).start()
    assert "no CUDAExecutionProvider" in predictor.skipped["onnx-cuda-fp16"]
