"""Real bundles with a tiny real network, made without torch: the map is the frame's grey level, so an answer
identifies its frame."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from export.bundle.files import checksum
from export.bundle.frame import FrameRanges, Range
from export.bundle.manifest import (
    CHECKSUM,
    GOLDEN_STEP,
    MANIFEST,
    EngineEntry,
    GoldenFrame,
    Manifest,
    Provenance,
    Thresholds,
)
from export.bundle.scale import Scale
from export.bundle.signature import SigningKey
from export.pack import file_digests, next_version, publish, staging_folder
from training.geometry import Geometry

ANYTHING = FrameRanges(**dict.fromkeys(FrameRanges.model_fields, Range(low=-1.0, high=1e9)))
GOLDEN_LEVELS = (0, 40, 200, 255)


def make_bundle(
    models: Path,
    product: str = "tile",
    version: int | None = None,
    size: tuple[int, int] = (32, 32),
    *,
    scale: Scale | None = None,
    min_area: int = 0,
    frame_ranges: FrameRanges = ANYTHING,
    guard_band: float | None = 0.0,
    golden_scores: Sequence[float] | None = None,
    golden_map_bias: float = 0.0,
    network: onnx.ModelProto | None = None,
    key: SigningKey | None = None,
) -> Path:
    """Writes `models/product/version` (the next version by default) for inputs of `size` (height, width).

    The raw map is grey level / 255 per pixel, the raw score its mean over the frame. On both scales the
    median is 0 and the threshold 0.5, so a plain frame of level v ≤ 127 scores v/255: dark is OK, bright NG.
    """
    scale = scale or Scale(median=0.0, threshold=0.5)
    geometry = Geometry(*size)
    raw_scores = golden_scores or [level / 255 for level in GOLDEN_LEVELS]
    with staging_folder(models) as root:
        onnx.save(network or grey_level_network(size), root / "model.onnx")
        (root / "golden").mkdir()
        for level in GOLDEN_LEVELS:
            Image.fromarray(plain_frame(level, size)).save(root / "golden" / f"{level}.png")
        np.save(root / "golden" / "heatmaps.npy", _golden_heatmaps(size) + np.float32(golden_map_bias))
        manifest = Manifest(
            product=product,
            version=version or next_version(models / product),
            geometry=geometry,
            thresholds=Thresholds(
                image=scale, pixel=scale, calibration_size=100, max_false_reject=0.01, promised=True
            ),
            min_area=min_area,
            frame_ranges=frame_ranges,
            engines=(
                EngineEntry(
                    id="onnx-f32", file="model.onnx", guard_band=guard_band, heatmap_deviation=guard_band
                ),
            ),
            golden=tuple(
                GoldenFrame(file=f"golden/{level}.png", kind="good", source=f"{level}.png", raw_score=raw)
                for level, raw in zip(GOLDEN_LEVELS, raw_scores, strict=True)
            ),
            golden_heatmaps="golden/heatmaps.npy",
            provenance=Provenance(
                created=datetime(2026, 1, 1, tzinfo=UTC),
                checkpoint="0" * 64,
                recipe="test",
                backbone="none",
                seed=0,
                libraries={},
            ),
            files=file_digests(root),
        )
        return publish(root, models / product, manifest, version, key)


def make_version(models: Path, version: int) -> Path:
    """A bundle of `tile` whose scores tell its version, as `score_of` says."""
    return make_bundle(
        models,
        version=version,
        network=grey_level_network((32, 32), bias=score_of(0, version)),
        golden_scores=[score_of(level, version) for level in GOLDEN_LEVELS],
        golden_map_bias=score_of(0, version),
    )


def score_of(level: int, version: int) -> float:
    """The raw score that such a version gives a plain frame: even ones add 0.05."""
    return level / 255 + 0.05 * (version % 2 == 0)


def plain_frame(level: int, size: tuple[int, int] = (32, 32)) -> NDArray[np.uint8]:
    """A frame [H, W, 3] of one grey level; `size` is (height, width)."""
    return np.full((*size, 3), level, dtype=np.uint8)


def _golden_heatmaps(size: tuple[int, int]) -> NDArray[np.float32]:
    levels = np.array(GOLDEN_LEVELS, np.float32) / 255
    return np.tile(levels[:, None, None], (1, size[0] // GOLDEN_STEP, size[1] // GOLDEN_STEP))


def grey_level_network(size: tuple[int, int], bias: float = 0.0, drift: float = 0.0) -> onnx.ModelProto:
    """frames uint8 [N, H, W, 3] → heatmap [N, H, W], the channels' mean / 255, and score [N], its mean.

    A network gone wrong adds `bias` to the map, and `drift` to the score per place in the batch.
    """
    height, width = size
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["values", "channels"], ["grey"], keepdims=0),
            helper.make_node("Div", ["grey", "white"], ["level"]),
            helper.make_node("Add", ["level", "bias"], ["heatmap"]),
            helper.make_node("ReduceMean", ["heatmap", "plane"], ["mean"], keepdims=0),
            helper.make_node("Shape", ["mean"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=_vector(TensorProto.FLOAT, [1.0])),
            helper.make_node("CumSum", ["ones", "batch_axis"], ["places"], exclusive=1),
            helper.make_node("Mul", ["places", "drift"], ["drifted"]),
            helper.make_node("Add", ["mean", "drifted"], ["score"]),
        ],
        "grey_level",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", height, width, 3])],
        [
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["N", height, width]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        [
            _vector(TensorProto.INT64, [3], "channels"),
            _vector(TensorProto.INT64, [1, 2], "plane"),
            helper.make_tensor("batch_axis", TensorProto.INT64, [], [0]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
            helper.make_tensor("drift", TensorProto.FLOAT, [], [drift]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _vector(kind: int, values: Sequence[float], name: str = "value") -> onnx.TensorProto:
    return helper.make_tensor(name, kind, [len(values)], values)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of `bundle` as its author could, with a new checksum."""
    facts = json.loads((bundle / MANIFEST).read_bytes())
    change(facts)
    content = json.dumps(facts).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_bytes(checksum(content))
