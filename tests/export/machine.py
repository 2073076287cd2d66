"""Skips tests of engines that this machine cannot run."""

import importlib.util
from pathlib import Path

import pytest


def needs(engine: str) -> None:
    """Skips the test, with the reason, if `engine` can't run here."""
    if engine.startswith("openvino") and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed (extra openvino)")
    if engine in ("openvino-bf16", "openvino-int8") and not {"avx512_bf16", "amx_bf16"} & set(
        Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    ):
        pytest.skip("this CPU has no bfloat16 instructions")
