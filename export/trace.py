"""DRD → one ONNX graph, traced from the modules that training evaluates."""

import warnings

import onnx
import torch
from torch import Tensor, nn

from export.bundle.manifest import BATCH_SIZES
from export.bundle.tensors import FRAMES, OUTPUTS, STUDENT, TEACHER
from training.checkpoint import DRD
from training.geometry import Geometry

_OPSET = 18
"""The newest opset that all our runtimes can read."""


class _WithFeatures(nn.Module):
    """`DRD.forward` that also returns the features between its parts (export/bundle/tensors.py)."""

    def __init__(self, drd: DRD) -> None:
        super().__init__()
        self.drd = drd

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        # The cast is the first operation: TensorRT accepts uint8 in casts only.
        teacher, student = self.drd.features(frames.float())
        outputs = self.drd.heatmap(self.drd.compare(teacher, student))
        return *outputs, *teacher, *student


def trace(drd: DRD, geometry: Geometry) -> onnx.ModelProto:
    """`drd` (evaluation mode, on the CPU) as a graph: `frames` uint8 `[N, H, W, 3]` → `heatmap` float32
    `[N, H, W]` and `score` float32 `[N]`, the features between its parts named. The same weights give the
    same bytes."""
    example = torch.zeros(2, geometry.height, geometry.width, 3, dtype=torch.uint8)  # 1 would fix the batch
    batch = torch.export.Dim("N", min=1, max=max(BATCH_SIZES))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about internals of the exporter
        program = torch.onnx.export(
            _WithFeatures(drd),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=(FRAMES,),
            output_names=OUTPUTS + TEACHER + STUDENT[-drd.student.levels :],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    features = model.graph.output[len(OUTPUTS) :]
    model.graph.value_info.extend(features)
    del model.graph.output[len(OUTPUTS) :]
    _forget_origin(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _forget_origin(model: onnx.ModelProto) -> None:
    """Removes the exporter's metadata: stack traces with paths of this machine, which change the bytes."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for message in (model, graph, *graph.node, *values):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
