"""TensorRT plans: built if possible; refused, with both values named, if they don't match this machine."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from export.bundle import Bundle, BundleError
from export.bundle.engines.engine import Engine
from export.bundle.engines.opening import open_engine
from export.bundle.manifest import EngineEntry
from export.cli import main
from export.plans import RTX_TARGETS, build_plan, plans_for_here, why_not_buildable
from export.prepare import prepare
from tests.bundles import edit_manifest
from training.files import file_digest
from training.geometry import Geometry

SIZE = Geometry(64, 64)
NAME = "tensorrt-rtx-fp16-sm89"
RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
with_rtx = pytest.mark.skipif(not RTX, reason="TensorRT for RTX is not installed (extra tensorrt-rtx)")
without_rtx = pytest.mark.skipif(RTX, reason="TensorRT for RTX is installed")


def entry(exported: Path, **changes: Any) -> EngineEntry:
    """An engine as in the manifest, without its files."""
    plan = {
        "file": f"engines/{NAME}.engine",
        "flavour": "tensorrt-rtx",
        "graph": file_digest(exported / "model.fp16.onnx"),
        "version": "1.7.1.116",
        "compute_capability": "8.9",
        "precision": "fp16",
        "profile": [1, 4, 8],
    }
    facts = {"id": NAME, "file": f"engines/{NAME}.onnx", "plan": plan | changes}
    return EngineEntry.model_validate_json(json.dumps(facts))


def opened(entry: EngineEntry, root: Path) -> Engine:
    return open_engine(entry, root, SIZE)


def test_a_plan_of_another_graph_is_refused(exported: Path) -> None:
    here = file_digest(exported / "model.fp16.onnx")
    with pytest.raises(BundleError, match=f"for model.fp16.onnx {'0' * 64}, but this is {here}"):
        opened(entry(exported, graph="0" * 64), exported)


def test_a_plan_for_smaller_batches_is_refused(exported: Path) -> None:
    with pytest.raises(BundleError, match=r"built for batches of 1 to 4, not for \(1, 2, 4, 8\)"):
        opened(entry(exported, profile=[1, 2, 4]), exported)


@with_rtx
def test_a_plan_of_another_tensorrt_is_refused(exported: Path) -> None:
    with pytest.raises(
        BundleError, match=r"for TensorRT 1\.6\.0\.1, but this is \d+\.\d+\.\d+\.\d+: export again"
    ):
        opened(entry(exported, version="1.6.0.1"), exported)


@without_rtx
def test_without_the_extra_an_engine_is_left_out_or_refused(
    exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any(engine.id.startswith("tensorrt") for engine in Bundle.open(exported).manifest.engines)
    assert main([str(checkpoint), "--to", str(tmp_path / "models"), "--engines", NAME]) == 1
    assert f"{NAME} can't be built here: " in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
    with pytest.raises(BundleError, match="onnxruntime_ep_nv_tensorrt_rtx is not installed"):
        opened(entry(exported), exported)


def test_tensorrt_10_needs_its_gpu_and_its_version() -> None:
    reason = why_not_buildable("tensorrt-fp16-sm10")
    assert reason is not None
    assert any(
        message in reason
        for message in ("not installed", "plans of TensorRT 10 only", "NVIDIA", "this one has")
    )


@pytest.mark.parametrize(("version", "refused"), [("11.0.0.1", True), ("10.16.1.11", False)])
def test_no_other_tensorrt_than_10_builds_its_plans(
    monkeypatch: pytest.MonkeyPatch, version: str, refused: bool
) -> None:
    module = ModuleType("tensorrt")
    vars(module).update(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    reason = why_not_buildable("tensorrt-fp16-sm10")
    assert reason is not None  # no GPU has compute capability 1.0 any more
    assert (f"TensorRT {version} is installed, but" in reason) == refused


def test_plans_are_for_the_gpu_they_are_built_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tensorrt")
    vars(module).update(__version__="10.16.1.11")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("export.plans.compute_capability", lambda: "8.9")
    assert why_not_buildable("tensorrt-fp16-sm89") is None
    assert "this one has compute capability 8.9" in (why_not_buildable("tensorrt-fp16-sm90") or "")
    assert plans_for_here() == [
        *(f"tensorrt-rtx-fp16-sm{target}" for target in RTX_TARGETS),
        "tensorrt-fp16-sm89",
    ]


def test_an_engine_that_cannot_be_built_here_is_refused_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tensorrt-fp16-sm10"
    assert main([str(checkpoint), "--to", str(tmp_path / "models"), "--engines", name]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"drd-export: {name} can't be built here: ")


def test_the_engine_that_runs_everywhere_is_in_every_bundle(tmp_path: Path) -> None:
    entries, _ = prepare(["openvino-f32"], tmp_path, SIZE, np.zeros((1, 64, 64, 3), np.uint8))
    assert [each.id for each in entries] == ["openvino-f32", "onnx-f32"]


@with_rtx
def test_rtx_is_not_for_data_centre_cards() -> None:
    assert why_not_buildable("tensorrt-rtx-fp16-sm90") == (
        "TensorRT for RTX supports sm86, sm89, sm120 only: use tensorrt or onnx-cuda"
    )


@with_rtx
@pytest.mark.parametrize("target", RTX_TARGETS)
def test_a_plan_has_content_and_its_wrapper_names_it(exported: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes((exported / "model.fp16.onnx").read_bytes())
    built = build_plan(f"tensorrt-rtx-fp16-sm{target}", tmp_path, SIZE)
    assert built.plan is not None
    assert built.plan.graph == file_digest(tmp_path / "model.fp16.onnx")
    assert built.plan.profile == (1, 4, 8)
    content = (tmp_path / built.plan.file).read_bytes()
    assert len(content) > 50_000
    assert [other for other in RTX_TARGETS if f"accelerators={{sm{other} ".encode() in content] == [target]
    wrapper = onnx.load(tmp_path / built.file)
    (node,) = wrapper.graph.node
    attributes = {value.name: onnx.helper.get_attribute_value(value) for value in node.attribute}
    assert (node.domain, node.op_type) == ("com.microsoft", "EPContext")
    assert attributes == {
        "main_context": 1,
        "embed_mode": 0,
        "ep_cache_context": Path(
            built.plan.file
        ).name.encode(),  # a plain file name: nothing outside the folder
        "source": b"NvTensorRTRTXExecutionProvider",
    }


@with_rtx
def test_a_graph_that_tensorrt_cannot_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"TensorRT can't read model\.fp16\.onnx"):
        build_plan(NAME, tmp_path, SIZE)


@with_rtx
def test_a_plan_that_cannot_be_built_does_not_end_an_export_that_did_not_ask_for_it(
    exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    (tmp_path / "model.fp16.onnx").write_bytes(b"not a graph")
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    entries, left_out = prepare(None, tmp_path, SIZE, frames)
    assert "onnx-f32" in {each.id for each in entries}
    assert "TensorRT can't read model.fp16.onnx" in left_out[NAME]
    with pytest.raises(BundleError, match=r"TensorRT can't read model\.fp16\.onnx"):
        prepare([NAME], tmp_path, SIZE, frames)


def test_a_driver_that_is_too_old_is_an_error_of_that_engine(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        __version__ = "10.16.1.11"

        class Logger:
            ERROR = 2

            def __init__(self, severity: int) -> None:
                pass

        @staticmethod
        def Builder(logger: object) -> None:  # noqa: N802
            raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr("export.plans._module", lambda flavour: Module)
    shutil.copy(exported / "model.fp16.onnx", tmp_path)
    with pytest.raises(BundleError, match=f"TensorRT can't build {NAME}: .* returned nullptr"):
        build_plan(NAME, tmp_path, SIZE)
    assert not (tmp_path / "engines").exists()


@with_rtx
def test_a_changed_plan_is_noticed_before_any_runtime_opens_it(exported: Path) -> None:
    plan = exported / f"engines/{NAME}.engine"
    content = plan.read_bytes()
    plan.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(BundleError, match=f"{NAME}.engine is damaged"):
            Bundle.open(exported)
    finally:
        plan.write_bytes(content)


@with_rtx
def test_an_engine_that_was_not_run_is_not_verified(exported: Path) -> None:
    engines = json.loads((exported / "parity.json").read_bytes())["engines"]
    (parity,) = (engine for engine in engines if engine["id"] == NAME)
    if parity["status"] == "verified":
        pytest.skip("there is a GPU that runs it")
    assert (parity["flips"], parity["max_score_deviation"]) == (None, None)
    assert "its graph on the CPU" in parity["reason"]
    assert NAME in Bundle.open(exported).start().skipped


@pytest.mark.parametrize("path", ["../plan.engine", "/plan.engine", "missing.engine"])
def test_a_plan_s_path_stays_in_the_bundle(exported: Path, tmp_path: Path, path: str) -> None:
    copy = shutil.copytree(exported, tmp_path / "bundle")
    plan = entry(exported, file="x").model_dump(mode="json")["plan"] | {"file": path}
    edit_manifest(copy, lambda facts: facts["engines"][0].update(plan=plan))
    with pytest.raises(BundleError, match=r"plan|missing"):
        Bundle.open(copy)
