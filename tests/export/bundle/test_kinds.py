"""The table of engines."""

import pytest

from export.bundle.engines.kinds import KINDS, UnknownEngineError, kind


@pytest.mark.parametrize("name", [name.replace("NN", "89") for name in KINDS] + ["tensorrt-fp16-sm120"])
def test_an_id_says_what_its_engine_is(name: str) -> None:
    """As far as people can read it there."""
    what = kind(name)
    assert f"-{what.precision}" in name
    assert what.gpu == (what.is_plan or "cuda" in name)
    assert what.is_plan == name.startswith("tensorrt")
    assert what.is_plan == ("-sm" in name)


@pytest.mark.parametrize(
    "name",
    ["", "onnx", "onnx-f16", "onnx-f32-sm89", "tensorrt-fp16", "tensorrt-fp16-smNN", "tensorrt-fp16-sm1"],
)
def test_other_ids_are_refused_with_a_list(name: str) -> None:
    with pytest.raises(UnknownEngineError, match=f"there is no engine '{name}'; known: onnx-cuda-fp16, "):
        kind(name)
