"""The graph says what the modules say, at every batch size."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from export.trace import trace
from tests.export.checkpoints import RECIPE
from training.checkpoint import load_checkpoint
from training.geometry import Geometry
from training.model.drd import DRD
from training.model.heatmap import ScoreRule
from training.model.teacher import Teacher

SIZE = Geometry(RECIPE.height, RECIPE.width)


def test_the_graph_equals_the_modules() -> None:
    rule = ScoreRule(normalise=True, top=0.01, factor=True, levels=(1.0, 0.5, 0.0), memory=2.0)
    torch.manual_seed(0)
    drd = DRD(Teacher(RECIPE.backbone), RECIPE, rule).eval()
    drd.heatmap.scale.uniform_(0.5, 1.5)
    drd.heatmap.roi[:20] = 0
    assert drd.memory is not None
    drd.memory.vectors.normal_()
    session = onnxruntime.InferenceSession(trace(drd, SIZE).SerializeToString())
    frames = np.random.default_rng(0).integers(0, 256, (8, SIZE.height, SIZE.width, 3), np.uint8)
    for count in (1, 2, 4, 8):
        heatmap, score = session.run(["heatmap", "score"], {"frames": frames[:count]})
        with torch.inference_mode():
            expected_heatmap, expected_score = drd(torch.from_numpy(frames[:count]))
        np.testing.assert_allclose(heatmap, expected_heatmap, atol=1e-5)
        np.testing.assert_allclose(score, expected_score, atol=1e-5)
        assert not heatmap[:, :20].any()


def test_a_level_without_weight_is_not_in_the_graph() -> None:
    def weights(*levels: float) -> int:
        rule = ScoreRule(normalise=True, levels=(levels[0], levels[1], levels[2]), memory=2.0)
        graph = trace(DRD(Teacher(RECIPE.backbone), RECIPE, rule).eval(), SIZE).graph
        return sum(math.prod(tensor.dims) for tensor in graph.initializer)

    stage = DRD(Teacher(RECIPE.backbone), RECIPE).student.stages[2]
    convolutions = sum(p.numel() for p in stage.parameters() if p.dim() == 4)
    assert weights(1, 1, 1) - weights(0, 1, 1) > convolutions


def test_a_graph_is_one_file_and_the_same_for_the_same_checkpoint(checkpoint: Path, exported: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    assert trace(load_checkpoint(checkpoint).model(), SIZE).SerializeToString() == content
    assert str(Path(__file__).parents[2]).encode() not in content  # no path of this machine
    graph = onnx.load(exported / "model.onnx", load_external_data=False).graph
    assert not any(tensor.external_data for tensor in graph.initializer)
