"""Engines on the GPU that is here: verified at export, taken at the start, equal at every batch size."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import pytest

from export.bundle import Bundle, Predictor
from export.cli import main
from export.plans import RTX_TARGETS, why_not_buildable
from tests.e2e.serving import process


def candidates(capability: str) -> list[str]:
    """Engines this GPU could run."""
    target = capability.replace(".", "")
    rtx = [f"tensorrt-rtx-fp16-sm{target}"] if target in RTX_TARGETS else []
    return ["onnx-cuda-fp16", f"tensorrt-fp16-sm{target}", *rtx]


@pytest.fixture(scope="module", params=[0, 1, 2])
def exported(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    capability: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, str]:
    """A bundle with one of the candidates, and its name."""
    place: int = request.param
    if place >= len(candidates(capability)):
        pytest.skip(f"TensorRT for RTX does not serve compute capability {capability}")
    name = candidates(capability)[place]
    if name.startswith("tensorrt") and (reason := why_not_buildable(name)):
        pytest.skip(reason)
    models = tmp_path_factory.mktemp("models")
    options = ["--to", str(models), "--max-false-reject", "0.1", "--engines", name]
    assert main([str(checkpoint), *options]) == 0
    bundle = Bundle.open(models / "plate" / "1")
    reason = parity_of(bundle, name)["reason"]
    if "is not installed" in reason or "this ONNX Runtime has no" in reason:
        pytest.skip(reason)
    return bundle, name


def parity_of(bundle: Bundle, name: str) -> dict[str, Any]:
    engines = json.loads((bundle.path / "parity.json").read_bytes())["engines"]
    found = [engine for engine in engines if engine["id"] == name]
    assert found, f"{name} was left out, for the reason above"
    parity: dict[str, Any] = found[0]
    return parity


def test_an_engine_is_verified(exported: tuple[Bundle, str]) -> None:
    bundle, name = exported
    parity = parity_of(bundle, name)
    assert (parity["status"], parity["flips"]) == ("verified", 0), parity["reason"]
    predictor = bundle.start(name)
    assert predictor.engine_id == name
    assert predictor.deviation <= 0.01
    predictor.close()


def test_another_batch_size_is_not_prepared_anew(exported: tuple[Bundle, str]) -> None:
    bundle, name = exported
    predictor = bundle.start(name)
    steady = timed(predictor, lambda _: 8)
    mixed = timed(predictor, lambda turn: 8 if turn % 2 else 1)
    predictor.close()
    assert mixed < 5 * steady


def timed(predictor: Predictor, size: Callable[[int], int]) -> float:
    """Median seconds of a batch."""
    frames, seconds = predictor.bundle.golden_frames(), list[float]()
    for turn in range(20):
        batch = np.resize(frames, (size(turn), *frames.shape[1:]))
        start = perf_counter()
        predictor.predict(batch)
        seconds.append(perf_counter() - start)
    return median(seconds)


def test_the_service_finds_the_libraries_without_torch(exported: tuple[Bundle, str]) -> None:
    bundle, name = exported
    with process("--models", bundle.path.parents[1], "--engine", name) as service:
        assert service.lines[-1].startswith("try"), service.lines
        (product,) = httpx.get(f"{service.url}/v1/products").json()["products"]
        assert product["versions"][0]["engine"] == name
        frame = next((bundle.path / "golden").glob("*.png")).read_bytes()
        answer = httpx.post(f"{service.url}/v1/inspect", params={"product": "plate"}, content=frame)
        assert answer.status_code == 200, answer.text
