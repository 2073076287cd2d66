"""Engines on ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

from export.bundle import BundleError
from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine
from training.geometry import Geometry

SIZE = Geometry(64, 64)


def test_a_session_for_each_batch_size_gives_the_same(exported: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    engine, each = (
        OnnxRuntimeEngine(exported / "model.onnx", SIZE, CPU, fixed_batch=fixed) for fixed in (False, True)
    )
    for count in (8, 1, 4, 2, 8):
        for answer, right in zip(each.run(frames[:count]), engine.run(frames[:count]), strict=True):
            np.testing.assert_allclose(answer, right, atol=1e-5)


def test_a_graph_of_another_size_is_refused(exported: Path) -> None:
    with pytest.raises(BundleError, match="does not take frames of 32×64"):
        OnnxRuntimeEngine(exported / "model.onnx", Geometry(32, 64), CPU)
