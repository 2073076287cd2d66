"""OpenVINO gives the outputs of ONNX Runtime, or the reason why it can't run."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.bundle import Bundle, BundleError
from export.bundle.engines.float32 import keep_first_in_float32
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.engines.openvino import FloatType, OpenVinoEngine
from export.quantise import quantise
from tests.bundles import grey_level_network
from tests.export.machine import needs
from training.geometry import Geometry

SIZE = Geometry(64, 64)


@pytest.mark.parametrize(("precision", "limit"), [("f32", 1e-5), ("bf16", 0.1)])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_outputs_are_those_of_onnx_runtime(
    exported: Path, precision: FloatType, limit: float, count: int
) -> None:
    needs(f"openvino-{precision}")
    frames = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), np.uint8)
    engine = OpenVinoEngine(exported / "model.onnx", SIZE, precision)
    expected = OnnxRuntimeEngine(exported / "model.onnx", SIZE, CPU).run(frames)
    first = engine.run(frames)
    engine.run(255 - frames)  # must not overwrite the outputs before
    for answer, right in zip(first, expected, strict=True):
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, right, atol=limit)
    engine.close()


def test_bf16_is_not_f32_under_another_name(exported: Path) -> None:
    needs("openvino-bf16")
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    one, other = (OpenVinoEngine(exported / "model.onnx", SIZE, p).run(frames) for p in ("f32", "bf16"))
    assert np.abs(one[0] - other[0]).max() > 1e-6


def test_a_cpu_without_bfloat16_is_not_said_to_compute_in_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("openvino-f32")
    monkeypatch.setattr("export.bundle.engines.openvino._cpu_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(BundleError, match="this CPU has no bfloat16 instructions"):
        OpenVinoEngine(exported / "model.onnx", SIZE, "bf16")
    OpenVinoEngine(exported / "model.onnx", SIZE, "f32").close()


def test_what_bfloat16_is_not_accurate_enough_for_is_in_float32(exported: Path) -> None:
    """The first convolutions, and all that follows the networks."""
    needs("openvino-bf16")
    engine = OpenVinoEngine(exported / "model.onnx", SIZE, "bf16", 5)
    networks, rest = (
        [
            (info["layerType"].astype(str), info["runtimePrecision"].astype(str))
            for info in (
                operation.get_rt_info()
                for operation in request.get_compiled_model().get_runtime_model().get_ordered_ops()
            )
        ]
        for _, request in engine._requests
    )
    engine.close()
    convolutions = [precision for kind, precision in networks if kind == "Convolution"]
    assert set(convolutions[:5]) == {"f32"}
    assert set(convolutions[5:]) == {"bf16"}
    assert "bf16" not in {precision for _, precision in rest}
    assert not [kind for kind, _ in rest if "Convolution" in kind]  # nothing is computed twice


# The fifth ends a residual block; the teacher has 14.
@pytest.mark.parametrize(("count", "kept"), [(3, 3), (5, 5), (20, 14)])
def test_only_the_first_convolutions_stay_in_float32(exported: Path, count: int, kept: int) -> None:
    needs("openvino-bf16")
    import openvino

    core = openvino.Core()
    graph = core.read_model(exported / "model.onnx")
    keep_first_in_float32(core, graph, count)
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    operations = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    precisions = [
        operation["runtimePrecision"].astype(str)
        for operation in operations
        if operation["layerType"].astype(str) == "Convolution"
    ]
    assert len(precisions) > 20
    assert set(precisions[:kept]) == {"f32"}
    assert set(precisions[kept:]) == {"bf16"}
    compiled(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(("count", "marked"), [(1, 1), (2, 3), (3, 3), (4, 4), (5, 5)])
def test_no_sum_of_a_convolution_in_float32_is_in_bfloat16(count: int, marked: int) -> None:
    """Two residual blocks, the first with a convolution in both branches. The fourth convolution feeds a sum,
    too, but the fifth also reads it, so nothing is fused into it."""
    needs("openvino-f32")
    import openvino

    conv = partial(helper.make_node, "Conv")
    nodes = [
        conv(["given", "weight", "bias"], ["1"]),
        conv(["1", "weight", "bias"], ["2"]),
        conv(["1", "weight"], ["3"]),
        helper.make_node("Add", ["2", "3"], ["sum"]),
        conv(["sum", "weight", "bias"], ["4"]),
        conv(["4", "weight"], ["5"]),
        helper.make_node("Add", ["5", "4"], ["end"]),
        conv(["end", "weight"], ["6"]),
    ]
    kind = TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["N", 1, 8, 8]) for name in ("given", "6")]
    weights = [
        helper.make_tensor("weight", kind, [1, 1, 1, 1], [1]),
        helper.make_tensor("bias", kind, [1], [1]),
    ]
    graph = helper.make_graph(nodes, "blocks", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    core = openvino.Core()
    blocks = core.read_model(model.SerializeToString())
    keep_first_in_float32(core, blocks, count)
    convolutions = [node for node in blocks.get_ops() if node.get_type_name() == "Convolution"]
    assert len(convolutions) == 6
    assert sum("DisablePrecisionConversion_0" in node.get_rt_info() for node in convolutions) == marked


def test_quantised_convolutions_run_in_int8(exported: Path, tmp_path: Path) -> None:
    needs("openvino-int8")
    graph = onnx.load(exported / "model.onnx")
    onnx.save(quantise(graph, Bundle.open(exported).golden_frames()), tmp_path / "model.int8.onnx")
    engine = OpenVinoEngine(tmp_path / "model.int8.onnx", SIZE, "bf16")
    networks = engine._requests[0][1].get_compiled_model().get_runtime_model()
    kinds = [operation.get_rt_info() for operation in networks.get_ordered_ops()]
    in_int8 = [kind for kind in kinds if kind["primitiveType"].astype(str).endswith("I8")]
    convolutions = [kind for kind in in_int8 if "Convolution" in kind["layerType"].astype(str)]
    engine.close()
    assert len(convolutions) > 20


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_file_that_is_not_our_graph_is_refused(tmp_path: Path, precision: FloatType) -> None:
    needs(f"openvino-{precision}")
    (tmp_path / "noise.onnx").write_bytes(b"not a graph")
    onnx.save(grey_level_network((32, 64)), tmp_path / "low.onnx")
    onnx.save(grey_level_network((64, 32)), tmp_path / "narrow.onnx")
    for name in ("noise.onnx", "low.onnx", "narrow.onnx"):
        with pytest.raises(BundleError, match=name) as caught:
            OpenVinoEngine(tmp_path / name, SIZE, precision)
        assert "\n" not in str(caught.value)


PROGRAM = """
import sys
sys.modules["openvino"] = None
from pathlib import Path
from export.bundle import Bundle
predictor = Bundle.open(Path(sys.argv[1])).start()
print(predictor.engine_id)
print(predictor.skipped.get("openvino-f32", "comes later"))
"""


def test_a_service_without_openvino_takes_the_next_engine(exported: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    engine, reason = done.stdout.splitlines()
    order = [entry.id for entry in Bundle.open(exported).manifest.engines]
    preferred = order.index("openvino-f32") < order.index("onnx-f32")
    assert engine == "onnx-f32"
    assert reason == ("openvino is not installed" if preferred else "comes later")


WITH_OPENVINO = """
import sys
from pathlib import Path
from export.bundle import Bundle
Bundle.open(Path(sys.argv[1])).start("openvino-f32")
"""


def test_openvino_sends_no_telemetry(exported: Path, tmp_path: Path) -> None:
    """OpenVINO's telemetry writes its client id into the user's home, unless the variable CI is set."""
    needs("openvino-f32")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-c", WITH_OPENVINO, str(exported)]
    here = Path(__file__).parents[3]
    subprocess.run(command, check=True, cwd=here, env=environment | {"HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
