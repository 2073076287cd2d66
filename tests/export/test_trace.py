"""The graph gives the same outputs as the modules, at every batch size."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.trace import trace
from tests.export.checkpoints import RECIPE, fill_memory
from training.checkpoint import load_checkpoint
from training.geometry import Geometry
from training.model.drd import DRD
from training.model.heatmap import ScoreRule
from training.model.teacher import Teacher
from training.recipe import Recipe

SIZE = Geometry(RECIPE.height, RECIPE.width)


@pytest.mark.parametrize(("levels", "memory"), [(2, 1000), (3, 1000), (3, 0)])
def test_the_graph_equals_the_modules(levels: int, memory: int) -> None:
    torch.manual_seed(0)
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"student_levels": levels, "memory": memory})
    rule = ScoreRule(normalise=True, top_fraction=0.01, refinement=not memory)
    drd = DRD(Teacher(recipe.backbone, pre_relu=recipe.pre_relu), recipe, rule).eval()
    drd.heatmap.scale.uniform_(0.5, 1.5)
    drd.heatmap.roi[:20] = 0
    if memory:
        fill_memory(drd)
    session = onnxruntime.InferenceSession(trace(drd, SIZE).SerializeToString())
    frames = np.random.default_rng(0).integers(0, 256, (8, SIZE.height, SIZE.width, 3), np.uint8)
    for count in (1, 2, 4, 8):
        heatmap, score = session.run(["heatmap", "score"], {"frames": frames[:count]})
        with torch.inference_mode():
            expected_heatmap, expected_score = drd(torch.from_numpy(frames[:count]))
        np.testing.assert_allclose(heatmap, expected_heatmap, atol=1e-5)
        np.testing.assert_allclose(score, expected_score, atol=1e-5)
        assert not heatmap[:, :20].any()


def test_a_graph_is_one_file_and_the_same_for_the_same_checkpoint(checkpoint: Path, exported: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    assert trace(load_checkpoint(checkpoint).model(), SIZE).SerializeToString() == content
    assert str(Path(__file__).parents[2]).encode() not in content  # no path of this machine
    graph = onnx.load(exported / "model.onnx", load_external_data=False).graph
    assert not any(tensor.external_data for tensor in graph.initializer)
