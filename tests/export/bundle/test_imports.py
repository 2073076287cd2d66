"""A runtime is imported when an engine is opened, not with the bundle."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import export.bundle
assert {"onnxruntime", "openvino"}.isdisjoint(sys.modules)
"""


def test_no_runtime_comes_with_the_bundle() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=Path(__file__).parents[3])
