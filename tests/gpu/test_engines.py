"""Engines on the GPU that is here: verified at export, taken at the start, equal at every batch size."""

import json
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.cli import main
from export.tensorrt import RTX_TARGETS, refusal


def candidates(capability: str) -> list[str]:
    """Engines this GPU could run."""
    target = capability.replace(".", "")
    rtx = [f"tensorrt-rtx-fp16-sm{target}"] if target in RTX_TARGETS else []
    return ["onnx-cuda-fp16", f"tensorrt-fp16-sm{target}", *rtx]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_engine_is_verified_and_serves(
    checkpoint: Path, capability: str, tmp_path: Path, place: int
) -> None:
    if place >= len(candidates(capability)):
        pytest.skip(f"TensorRT for RTX does not serve compute capability {capability}")
    name = candidates(capability)[place]
    if name.startswith("tensorrt") and (reason := refusal(name)):
        pytest.skip(reason)
    options = ["--to", str(tmp_path), "--max-false-reject", "0.1", "--engines", name]
    assert main([str(checkpoint), *options]) == 0
    bundle = tmp_path / "plate" / "1"
    proofs = json.loads((bundle / "parity.json").read_bytes())["engines"]
    (proof,) = (proof for proof in proofs if proof["id"] == name)
    if "is not installed" in proof["reason"] or "this ONNX Runtime has no" in proof["reason"]:
        pytest.skip(proof["reason"])
    assert (proof["status"], proof["flips"]) == ("verified", 0), proof["reason"]
    predictor = Bundle.open(bundle).start(name)
    assert predictor.engine_id == name
    assert predictor.deviation <= 0.01
