"""The graph gives the same outputs as the modules, at every batch size."""

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.trace import trace
from tests.export.checkpoints import RECIPE, fill_memory
from training.checkpoint import load_checkpoint
from training.geometry import Geometry
from training.model.drd import DRD
from training.model.heatmap import ScoreRule
from training.model.teacher import Teacher
from training.recipe import Recipe

SIZE = Geometry(RECIPE.height, RECIPE.width)


@pytest.mark.parametrize("memory", [1000, 0])
def test_the_graph_equals_the_modules(memory: int, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"student_levels": 3, "memory": memory})
    rule = ScoreRule(normalise=True, top_fraction=0.01, refinement=not memory)
    drd = DRD(Teacher(recipe.backbone, pre_relu=recipe.pre_relu), recipe, rule).eval()
    drd.heatmap.scale.uniform_(0.5, 1.5)
    drd.heatmap.roi[:20] = 0
    if memory:
        fill_memory(drd)
    heatmap = assert_equal(trace(drd, SIZE).SerializeToString(), drd)
    assert not heatmap[:, :20].any()
    # drd-export would print them.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def assert_equal(graph: bytes, drd: DRD) -> NDArray[np.float32]:
    """At every batch size; returns the heatmap of the largest."""
    session = onnxruntime.InferenceSession(graph)
    frames = np.random.default_rng(0).integers(0, 256, (8, SIZE.height, SIZE.width, 3), np.uint8)
    for count in (1, 2, 4, 8):
        found: list[NDArray[np.float32]] = session.run(["heatmap", "score"], {"frames": frames[:count]})
        heatmap, score = found
        with torch.inference_mode():
            expected_heatmap, expected_score = drd(torch.from_numpy(frames[:count]))
        np.testing.assert_allclose(heatmap, expected_heatmap, atol=1e-5)
        np.testing.assert_allclose(score, expected_score, atol=1e-5)
    return heatmap


def test_the_graph_of_a_bundle_equals_its_checkpoint(checkpoint: Path, exported: Path) -> None:
    """Whose student has two levels."""
    assert RECIPE.student_levels == 2
    assert_equal((exported / "model.onnx").read_bytes(), load_checkpoint(checkpoint).model())


def test_a_graph_is_one_file_without_paths_of_this_machine(exported: Path) -> None:
    assert str(Path(__file__).parents[2]).encode() not in (exported / "model.onnx").read_bytes()
    graph = onnx.load(exported / "model.onnx", load_external_data=False).graph
    assert not any(tensor.external_data for tensor in graph.initializer)
