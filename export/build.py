"""Checkpoint → bundle: calibrate, trace, prove, publish."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from importlib.util import find_spec
from pathlib import Path

import onnx
import torch

from export.accept import EngineParity, Parity, certify
from export.bundle.manifest import (
    GRAPH,
    HALF_GRAPH,
    INT8_GRAPH,
    BundleError,
    EngineEntry,
    Manifest,
    Provenance,
    RegionOfInterest,
)
from export.bundle.signature import SigningKey
from export.calibrate import Calibration, CalibrationError, calibrate
from export.engines import prepare, refuse
from export.golden import HEATMAPS, Golden, choose_golden, spread
from export.half import halve
from export.pack import publish, refuse_taken, staging_folder
from export.report import Say, tell_golden, tell_parity, tell_thresholds
from export.roi import read_roi
from export.scoring import score_pictures
from export.survey import Survey
from export.trace import trace
from training.checkpoint import TENSORS, Checkpoint, load_checkpoint
from training.datasets import DatasetError, open_dataset
from training.evaluate import read_frames
from training.files import file_digest
from training.geometry import Geometry
from training.model.drd import DRD
from training.names import PRODUCT_NAME

_RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt")
_QUANTISED_ON = 64
"""At most so many frames: more would hardly widen the ranges of activations."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of the checkpoint in the folder `checkpoint`, below the folder `models`.

    `calibration` replaces the images training set aside; `engines` None are all that can be made here;
    `version` None is the next one; `key` is a file with the private key that signs it.
    """

    checkpoint: Path
    models: Path
    calibration: Path | None
    max_false_reject: float
    min_area: int
    version: int | None
    roi: Path | None = None
    engines: tuple[str, ...] | None = None
    key: Path | None = None


def build(order: Order, say: Say) -> Path:
    """Makes a bundle and gives its folder; raises what `export.errors` lists."""
    checkpoint = load_checkpoint(order.checkpoint)
    product = order.models / _product_name(checkpoint.product)
    refuse_taken(product, order.version)
    refuse(order.engines)
    key = None if order.key is None else SigningKey(order.key)
    geometry, backbone = checkpoint.geometry, checkpoint.recipe.backbone
    say("Product", f"{checkpoint.product}: {backbone} at {geometry.height} x {geometry.width}")
    drd = checkpoint.model()
    roi = _interest(order.roi, drd, geometry, say)
    calibration, golden, survey = _calibrated(order, checkpoint, drd, say)
    with staging_folder(order.models) as root:
        say("Graph", "tracing the network, some ten seconds …")
        graph = trace(drd, geometry)
        onnx.save(graph, root / GRAPH)
        onnx.save(halve(graph), root / HALF_GRAPH)
        golden.save(root)
        good = list(calibration.scores)[::2]  # the survey has the others; thresholds are the checkpoint's
        frames = read_frames(spread(good, _QUANTISED_ON), geometry)
        prepared = prepare(order.engines, root, geometry, frames)
        entries = {entry.id: entry for entry in prepared.entries}
        proofs, unfit = certify(prepared.entries, root, geometry, golden, survey, calibration.thresholds)
        tell_parity(proofs, prepared.left_out | unfit, say)
        kept = [proof for proof in proofs if proof.id not in unfit]
        if not any(proof.status == "verified" for proof in kept):
            raise BundleError("no engine agrees with the checkpoint, so there is no bundle")
        if all(entries[proof.id].file != INT8_GRAPH for proof in kept):
            (root / INT8_GRAPH).unlink(missing_ok=True)
        parity = Parity(frames=len(golden.frames), engines=tuple(kept))
        (root / "parity.json").write_text(parity.model_dump_json(indent=2) + "\n", encoding="utf-8")

        def describe(version: int, files: Mapping[str, str]) -> Manifest:
            return Manifest(
                product=checkpoint.product,
                version=version,
                geometry=geometry,
                thresholds=calibration.thresholds,
                min_area=order.min_area,
                roi=roi,
                frame_ranges=calibration.frame_ranges,
                engines=tuple(_measured(entries[proof.id], proof) for proof in kept),
                golden=golden.entries,
                golden_heatmaps=HEATMAPS,
                provenance=_provenance(checkpoint),
                files=dict(files),
            )

        bundle = publish(root, product, describe, order.version, key)
    say("Bundle", f"{bundle}{', signed' if key else ''}")
    return bundle


def _product_name(name: str) -> str:
    if not PRODUCT_NAME.fullmatch(name):
        raise BundleError(f"{name!r} can't be a product's name: use letters, digits, '.', '_' and '-'")
    return name


def _interest(path: Path | None, drd: DRD, geometry: Geometry, say: Say) -> RegionOfInterest | None:
    """Gives `drd` the region of interest of the file, before anything is calibrated."""
    if path is None:
        return None
    region, mask = read_roi(path, geometry)
    drd.heatmap.roi.copy_(torch.from_numpy(mask))
    say("Region", f"{region.share:.1%} of the picture counts, after {path}")
    return region


def _calibrated(
    order: Order, checkpoint: Checkpoint, drd: DRD, say: Say
) -> tuple[Calibration, Golden, Survey]:
    paths = _calibration_images(checkpoint, order.calibration, say)
    geometry, predict = checkpoint.geometry, drd.predict
    calibration = calibrate(score_pictures(predict, paths, geometry, "calibrate"), order.max_false_reject)
    tell_thresholds(calibration.thresholds, say)
    defective = _defective_images(checkpoint, order.calibration)
    golden = choose_golden(
        calibration.scores, calibration.thresholds.image.threshold, defective, geometry, predict
    )
    tell_golden(golden.entries, say)
    return calibration, golden, Survey.take(paths[1::2], defective, geometry, predict)


def _calibration_images(checkpoint: Checkpoint, folder: Path | None, say: Say) -> list[Path]:
    """Good images that training has not seen: those it set aside, or those of `folder`."""
    if folder is None:
        paths = checkpoint.images("calibrate")
        say("Calibration", f"{len(paths)} good images that training set aside")
        return paths
    given = open_dataset(folder, checkpoint.product).train
    seen = {record.sha256 for split in ("fit", "select") for record in checkpoint.splits[split]}
    paths = [sample.path for sample in given if file_digest(sample.path) not in seen]
    if not paths:
        raise CalibrationError(f"{folder}: training has seen all {len(given)} of these images; give others")
    say(
        "Calibration", f"{len(paths)} good images of {folder}, without {len(given) - len(paths)} training saw"
    )
    return paths


def _defective_images(checkpoint: Checkpoint, folder: Path | None) -> list[Path]:
    """Known defective parts; none where the data has moved: as golden frames they are welcome, not needed."""
    try:
        test = open_dataset(folder or checkpoint.data_root, checkpoint.product).test
    except DatasetError:
        return []
    return [sample.path for sample in test if sample.defective]


def _measured(entry: EngineEntry, proof: EngineParity) -> EngineEntry:
    return entry.model_copy(
        update={"guard_band": proof.guard_band, "heatmap_deviation": proof.max_heatmap_deviation}
    )


def _provenance(checkpoint: Checkpoint) -> Provenance:
    return Provenance(
        created=datetime.now(UTC),
        checkpoint=file_digest(checkpoint.directory / TENSORS),
        recipe=checkpoint.recipe.name,
        backbone=checkpoint.recipe.backbone,
        seed=checkpoint.seed,
        libraries={
            **checkpoint.libraries,
            **{name: library_version(name) for name in _RUNTIMES if find_spec(name)},
        },
    )
