"""DRD → one ONNX graph, traced from the very modules training evaluates."""

import warnings

import onnx
import torch
from torch import nn

from export.bundle.manifest import BATCH_SIZES
from training.geometry import Geometry

_OPSET = 18  # the newest that every runtime we serve on reads


def trace(drd: nn.Module, geometry: Geometry) -> onnx.ModelProto:
    """`drd` (evaluation mode, CPU) as a graph: `frames` uint8 [N, H, W, 3] → `heatmap` float32 [N, H, W] and
    `score` float32 [N], weights inside. The same modules give the same bytes."""
    example = torch.zeros(
        2, geometry.height, geometry.width, 3, dtype=torch.uint8
    )  # 1 would be taken as fixed
    batch = torch.export.Dim("N", min=1, max=max(BATCH_SIZES))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            drd,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["frames"],
            output_names=["heatmap", "score"],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drops the exporter's notes: stack traces with this machine's paths, which also change the bytes."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
