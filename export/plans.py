"""Builds TensorRT plans: TensorRT for RTX on any machine, TensorRT 10 on the GPU that will run them.

NVIDIA's licence covers the libraries and also the plans they build: read it before you distribute engines.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.bundle.engines.engine import first_line
from export.bundle.engines.nvidia import RTX_PLUGIN, compute_capability
from export.bundle.engines.specs import spec_of
from export.bundle.engines.tensorrt import PROVIDERS
from export.bundle.manifest import BATCH_SIZES, FLOAT16_GRAPH, BundleError, EngineEntry, Flavour, Plan
from export.bundle.tensors import FRAMES, OUTPUTS
from training.files import file_digest
from training.geometry import Geometry

RTX_TARGETS = ("86", "89", "120")
"""Compute capabilities that the provider for RTX accepts: A10 and RTX 30, L4 and RTX 40, RTX 50."""
_BATCH = (min(BATCH_SIZES), 4, max(BATCH_SIZES))
"""Smallest, preferred and largest batch size of a plan."""

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
_TENSORRT = "10"
"""Major version that ONNX Runtime's provider is linked against; it cannot run plans of another."""


def why_not_buildable(name: str) -> str | None:
    """The reason why the engine `name` can't be built on this machine; None if it can."""
    flavour, target = _parse(name)
    try:
        module = _module(flavour)
        if flavour == "tensorrt-rtx":
            if target not in RTX_TARGETS:
                return (
                    f"TensorRT for RTX supports sm{', sm'.join(RTX_TARGETS)} only: use tensorrt or onnx-cuda"
                )
        elif module.__version__.partition(".")[0] != _TENSORRT:
            return (
                f"TensorRT {module.__version__} is installed, but ONNX Runtime's provider runs plans of "
                f"TensorRT {_TENSORRT} only: install the extra tensorrt"
            )
        elif (here := compute_capability()) != _capability(target):
            return f"it must be built on the GPU that will run it, and this one has compute capability {here}"
    except BundleError as error:
        return str(error)
    return None


def plans_for_here() -> list[str]:
    """The engines that an export tries to build unless it is told which: those that need no GPU, and the one
    for the GPU of this machine, if there is one."""
    ahead = [f"tensorrt-rtx-fp16-sm{target}" for target in RTX_TARGETS]
    try:
        return [*ahead, f"tensorrt-fp16-sm{compute_capability().replace('.', '')}"]
    except BundleError:
        return ahead


def build_plan(name: str, root: Path, geometry: Geometry) -> EngineEntry:
    """Builds the engine `name` from the float16 graph of the unfinished bundle at `root`.

    Raises BundleError with the reason of `why_not_buildable`, or of TensorRT.
    """
    if reason := why_not_buildable(name):
        raise BundleError(reason)
    flavour, target = _parse(name)
    module = _module(flavour)
    plan = Plan(
        file=f"engines/{name}.engine",
        flavour=flavour,
        graph=file_digest(root / FLOAT16_GRAPH),
        version=module.__version__,
        compute_capability=_capability(target),
        precision="fp16",
        profile=_BATCH,
    )
    wrapper = f"engines/{name}.onnx"
    try:
        content = _serialized(module, flavour, target, root / FLOAT16_GRAPH, geometry)
    except BundleError:
        raise
    except Exception as error:  # such as TypeError, if the driver is too old for this TensorRT
        raise BundleError(f"TensorRT can't build {name}: {first_line(error)}") from error
    (root / wrapper).parent.mkdir(exist_ok=True)
    (root / plan.file).write_bytes(content)
    onnx.save(_wrapper(Path(plan.file).name, PROVIDERS[flavour], geometry), root / wrapper)
    return EngineEntry(id=name, file=wrapper, plan=plan)


def _parse(name: str) -> tuple[Flavour, str]:
    """TensorRT's flavour, and the compute capability as the id has it, such as "89"."""
    flavour = spec_of(name).runtime
    assert flavour == "tensorrt" or flavour == "tensorrt-rtx", name
    return flavour, name.rpartition("-sm")[2]


def _capability(target: str) -> str:
    return f"{target[:-1]}.{target[-1]}"


def _module(flavour: str) -> Any:
    """TensorRT's Python module; both flavours have the same interface. BundleError if it is not installed."""
    name = _MODULES[flavour]
    try:
        if flavour == "tensorrt-rtx":
            importlib.import_module(RTX_PLUGIN)  # loads the native library that the bindings call
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        absent = importlib.util.find_spec(name) is None
        missing = f"{name} is not installed: install the extra {flavour}"
        raise BundleError(missing if absent else f"{error}") from error


def _serialized(module: Any, flavour: str, target: str, graph: Path, geometry: Geometry) -> bytes:
    """The plan, strongly typed: every tensor keeps the precision it has in the graph."""
    logger = module.Logger(module.Logger.ERROR)
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        raise BundleError(f"TensorRT can't read {graph.name}: {parser.get_error(0).desc().splitlines()[0]}")
    config = builder.create_builder_config()
    config.clear_flag(module.BuilderFlag.TF32)  # would round float32 to 10 bits
    if flavour == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(module.ComputeCapability, f"SM{target}"), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape(FRAMES, *((batch, geometry.height, geometry.width, 3) for batch in _BATCH))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError(f"TensorRT built no plan from {graph.name}")
    return bytes(plan)


def _wrapper(plan: str, provider: str, geometry: Geometry) -> onnx.ModelProto:
    """A graph of a single node that refers to the file `plan` in the same folder."""
    node = helper.make_node(
        "EPContext",
        [FRAMES],
        OUTPUTS,
        domain="com.microsoft",
        main_context=1,
        embed_mode=0,
        ep_cache_context=plan,
        source=provider,
    )
    size = [geometry.height, geometry.width]
    heatmap, score = OUTPUTS
    graph = helper.make_graph(
        [node],
        "plan",
        [helper.make_tensor_value_info(FRAMES, TensorProto.UINT8, ["N", *size, 3])],
        [
            helper.make_tensor_value_info(heatmap, TensorProto.FLOAT, ["N", *size]),
            helper.make_tensor_value_info(score, TensorProto.FLOAT, ["N"]),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model
