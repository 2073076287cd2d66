"""What this machine can run."""

import importlib.util
from pathlib import Path

import pytest


def needs(engine: str) -> None:
    """Skips the test where `engine` can't run, and says why."""
    if engine.startswith("openvino") and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed (extra openvino)")
    if engine in ("openvino-bf16", "openvino-int8") and not {"avx512_bf16", "amx_bf16"} & set(
        Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    ):
        pytest.skip("this CPU has no bfloat16 instructions")
