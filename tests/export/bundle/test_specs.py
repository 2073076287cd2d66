"""The table of engines."""

import pytest

from export.bundle.engines.specs import ENGINES, UnknownEngineError, spec_of


@pytest.mark.parametrize("name", [name.replace("NN", "89") for name in ENGINES] + ["tensorrt-fp16-sm120"])
def test_an_id_says_what_its_engine_is(name: str) -> None:
    """As far as people can read it there."""
    spec = spec_of(name)
    assert f"-{spec.precision}" in name
    assert spec.gpu == (spec.is_plan or "cuda" in name)
    assert spec.is_plan == name.startswith("tensorrt")
    assert spec.is_plan == ("-sm" in name)


@pytest.mark.parametrize(
    "name",
    ["", "onnx", "onnx-f16", "onnx-f32-sm89", "tensorrt-fp16", "tensorrt-fp16-smNN", "tensorrt-fp16-sm1"],
)
def test_other_ids_are_refused_with_a_list(name: str) -> None:
    with pytest.raises(UnknownEngineError, match=f"there is no engine '{name}'; known: onnx-cuda-fp16, "):
        spec_of(name)
