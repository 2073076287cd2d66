"""Engines on ONNX Runtime."""

import os
import subprocess
import sys
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_where_one_core_is_allowed_it_starts_no_threads(exported: Path) -> None:
    """In a process of its own, without threads of other libraries."""
    program = (
        "import os, sys; from pathlib import Path; import onnxruntime; "
        "from export.bundle.engines.onnx_runtime import CPU, OnnxRuntimeEngine; "
        "from training.geometry import Geometry; "
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "before = os.listdir('/proc/self/task'); "
        "engine = OnnxRuntimeEngine(Path(sys.argv[1]), Geometry(64, 64), CPU); "
        "sys.exit(before != os.listdir('/proc/self/task'))"
    )
    subprocess.run([sys.executable, "-c", program, exported / "model.onnx"], check=True, timeout=60)


def test_closing_twice_is_closing_once(exported: Path) -> None:
    engine = OnnxRuntimeEngine(exported / "model.onnx", SIZE, CPU)
    engine.close()
    engine.close()
