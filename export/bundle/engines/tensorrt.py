"""TensorRT plans, run by ONNX Runtime through a wrapper graph of one `EPContext` node.

A plan is native code. It is opened only if its digest, the graph it was built from, TensorRT's version and
the GPU are those in the manifest. A mismatch is an error that names both values; nothing is rebuilt.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from export.bundle.engines.engine import first_line
from export.bundle.engines.nvidia import RTX_PLUGIN, compute_capability, load_libraries
from export.bundle.engines.onnx_runtime import OnnxRuntimeEngine
from export.bundle.manifest import FLOAT16_GRAPH, BundleError, EngineEntry, Plan
from training.files import file_digest
from training.geometry import Geometry

PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "tensorrt-rtx": "NvTensorRTRTXExecutionProvider"}


def open_plan(entry: EngineEntry, root: Path, geometry: Geometry) -> OnnxRuntimeEngine:
    """Opens the plan of `entry`. Raises BundleError if this machine can't run it."""
    plan = entry.plan
    if plan is None:
        raise BundleError(f"{entry.id} has no plan")
    _check_plan(plan, entry, file_digest(root / FLOAT16_GRAPH))
    _must_equal(plan, "TensorRT", plan.version, load_libraries(plan.flavour))
    _must_equal(plan, "compute capability", plan.compute_capability, compute_capability())
    provider = PROVIDERS[plan.flavour]
    devices = _plugin_devices(provider) if plan.flavour == "tensorrt-rtx" else None
    return OnnxRuntimeEngine(root / entry.file, geometry, provider, devices)


def _check_plan(plan: Plan, entry: EngineEntry, graph: str) -> None:
    """Raises BundleError unless `plan` was built from the graph with digest `graph` for all batch sizes."""
    _must_equal(plan, FLOAT16_GRAPH, plan.graph, graph)
    smallest, _, largest = plan.profile
    if not (smallest <= min(entry.batch_sizes) and max(entry.batch_sizes) <= largest):
        raise BundleError(
            f"{plan.file} was built for batches of {smallest} to {largest}, not for {entry.batch_sizes}"
        )


def _must_equal(plan: Plan, what: str, built: str, here: str) -> None:
    if built != here:
        raise BundleError(f"{plan.file} was built for {what} {built}, but this is {here}: export again")


def _plugin_devices(provider: str) -> list[Any]:
    """The first GPU of the provider for TensorRT for RTX, a plug-in of ONNX Runtime."""
    onnxruntime, plugin = (import_module(name) for name in ("onnxruntime", RTX_PLUGIN))
    try:
        if not any(device.ep_name == provider for device in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(provider, plugin.get_library_path())
    except Exception as error:  # exceptions of the runtime have no common base class
        raise BundleError(f"{provider} can't be loaded: {first_line(error)}") from error
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    if not devices:
        raise BundleError(f"{provider} finds no GPU it can use")
    return devices[:1]
