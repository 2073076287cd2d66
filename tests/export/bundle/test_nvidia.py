"""NVIDIA's libraries, as far as they load without a GPU."""

import importlib.util
import subprocess
import sys

import pytest

from export.bundle.engines.nvidia import RTX_PLUGIN


@pytest.mark.skipif(not importlib.util.find_spec(RTX_PLUGIN), reason="extra tensorrt-rtx is not installed")
def test_the_plug_in_for_tensorrt_for_rtx_finds_cuda_where_pip_put_it() -> None:
    """In a process of its own: what is loaded stays loaded."""
    program = (
        "import ctypes; from export.bundle.engines.nvidia import load_libraries; "
        "load_libraries('tensorrt-rtx'); ctypes.CDLL('libcudart.so.13')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
