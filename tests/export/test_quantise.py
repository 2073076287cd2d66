"""The quantised graph: int8 between the features and nowhere else."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.bundle import Bundle
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from export.bundle.tensors import TEACHER
from export.quantise import quantise
from training.geometry import Geometry

CONVOLUTIONS = {"Conv", "ConvTranspose"}


@pytest.fixture(scope="module")
def graph(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported / "model.onnx")


@pytest.fixture(scope="module")
def quantised(exported: Path, graph: onnx.ModelProto) -> onnx.ModelProto:
    return quantise(graph, Bundle.open(exported).golden_frames())


def test_all_after_the_convolution_that_reads_the_finest_level_is_quantised(
    graph: onnx.ModelProto, quantised: onnx.ModelProto
) -> None:
    convolutions = [node for node in graph.graph.node if node.op_type in CONVOLUTIONS]
    *_, first = (place for place, node in enumerate(convolutions) if TEACHER[0] in node.input)
    made_by = {name: node.op_type for node in quantised.graph.node for name in node.output}
    sources = {node.name: [made_by.get(name) for name in node.input[:2]] for node in quantised.graph.node}
    for place, node in enumerate(convolutions):
        is_int8 = sources[node.name] == ["DequantizeLinear"] * 2
        assert is_int8 is (place > first), node.name
    assert 10 < first < len(convolutions) - 10


def test_its_scores_are_nearly_those_of_the_graph(
    exported: Path, quantised: onnx.ModelProto, tmp_path: Path
) -> None:
    onnx.save(quantised, tmp_path / "model.int8.onnx")
    bundle = Bundle.open(exported)
    frames, scale = bundle.golden_frames(), bundle.manifest.thresholds.image
    paths = (exported / "model.onnx", tmp_path / "model.int8.onnx")
    expected, score = (OnnxRuntimeEngine(path, Geometry(64, 64), CPU).run(frames)[1] for path in paths)
    deviation = np.abs(scale.scores(score) - scale.scores(expected)).max()
    assert 1e-6 < deviation < 0.1  # a small network with an untrained teacher


def test_it_is_smaller_contains_no_paths_and_is_reproducible(
    exported: Path, graph: onnx.ModelProto, quantised: onnx.ModelProto
) -> None:
    content = quantised.SerializeToString(deterministic=True)
    assert len(content) < graph.ByteSize() * 0.7
    assert b"/tmp" not in content
    again = quantise(graph, Bundle.open(exported).golden_frames())
    assert again.SerializeToString(deterministic=True) == content
