"""Checkpoint → bundle: calibrate, trace, prove, publish."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path

import onnx
from pydantic import TypeAdapter, ValidationError

from export.accept import EngineParity, Parity, prove
from export.bundle.files import file_digest
from export.bundle.manifest import (
    MAX_GUARD_BAND,
    BundleError,
    EngineEntry,
    Manifest,
    ProductName,
    Provenance,
    Thresholds,
)
from export.calibrate import Calibration, CalibrationError, calibrate
from export.golden import Golden, choose_golden
from export.pack import publish, refuse_taken, staging_folder
from export.scoring import checkpoint_predict, score_pictures
from export.trace import trace
from training.checkpoint import Checkpoint, load_checkpoint
from training.datasets import DatasetError, open_dataset
from training.evaluate import Predict

ENGINES = (EngineEntry(id="onnx-f32", file="model.onnx"),)
Say = Callable[[str, str], None]
"""Tells a topic and a line about it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of the checkpoint folder `checkpoint` in the folder `models`."""

    checkpoint: Path
    models: Path
    calibration: Path | None
    max_false_reject: float
    min_area: int
    version: int | None


def build(order: Order, say: Say) -> Path:
    """Makes a bundle; gives its folder. Every error of the rooms below passes through."""
    checkpoint = load_checkpoint(order.checkpoint)
    geometry = checkpoint.geometry
    say("Checkpoint", f"{order.checkpoint}: {checkpoint.product}, {checkpoint.recipe.backbone}, {geometry}")
    product = order.models / _product_name(checkpoint.product)
    refuse_taken(product, order.version)
    paths = _calibration_images(checkpoint, order.calibration, say)
    drd = checkpoint.model()
    predict = checkpoint_predict(drd)
    calibration = calibrate(score_pictures(predict, paths, geometry, "calibrate"), order.max_false_reject)
    _tell_thresholds(calibration.thresholds, say)
    golden = _golden(checkpoint, order.calibration, calibration, predict, say)
    say("Graph", "tracing the network")
    with staging_folder(order.models) as root:
        onnx.save(trace(drd, geometry), root / "model.onnx")
        golden.save(root)
        proofs = [prove(entry, root, geometry, golden, calibration.thresholds) for entry in ENGINES]
        engines = _accepted(proofs, say)
        parity = Parity(frames=len(golden.frames), engines=tuple(p for p in proofs if p.id in engines))
        (root / "parity.json").write_text(parity.model_dump_json(indent=2) + "\n", encoding="utf-8")

        def describe(version: int, files: Mapping[str, str]) -> Manifest:
            return Manifest(
                product=checkpoint.product,
                version=version,
                geometry=geometry,
                thresholds=calibration.thresholds,
                min_area=order.min_area,
                frame_ranges=calibration.frame_ranges,
                engines=tuple(engines.values()),
                golden=golden.entries,
                provenance=_provenance(checkpoint),
                files=dict(files),
            )

        bundle = publish(root, product, describe, order.version)
    say("Bundle", str(bundle))
    return bundle


def _product_name(name: str) -> str:
    try:
        return TypeAdapter[str](ProductName).validate_python(name)
    except ValidationError as error:
        raise BundleError(
            f"{name!r} can't be a product's name: use letters, digits, '.', '_' and '-'"
        ) from error


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
        "Calibration",
        f"{len(paths)} good images of {folder}; {len(given) - len(paths)} that training saw left out",
    )
    return paths


def _golden(
    checkpoint: Checkpoint, folder: Path | None, calibration: Calibration, predict: Predict, say: Say
) -> Golden:
    try:
        test = open_dataset(folder or checkpoint.data_root, checkpoint.product).test
    except DatasetError:
        test = ()  # the data has moved: defective frames are welcome, not needed
    defective = [sample.path for sample in test if sample.defective]
    threshold = calibration.thresholds.image.threshold
    golden = choose_golden(calibration.scores, threshold, defective, checkpoint.geometry, predict)
    kinds = Counter(entry.kind for entry in golden.entries)
    say("Golden", f"{len(golden.frames)} frames: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    return golden


def _accepted(proofs: list[EngineParity], say: Say) -> dict[str, EngineEntry]:
    """Entries of the engines that go into the bundle, by id; tells the table of all."""
    say(
        "Parity",
        f"{'engine':24} {'status':10} {'score':>9} {'heatmap':>9} {'flips':>5}   largest deviations, scores being 0 to 1",
    )
    accepted = {}
    for proof, entry in zip(proofs, ENGINES, strict=True):
        say("", _parity_line(proof))
        if (proof.guard_band or 0) > MAX_GUARD_BAND:
            say("", f"{entry.id} is left out: it needs a guard band over {MAX_GUARD_BAND}")
        else:
            accepted[entry.id] = entry.model_copy(update={"guard_band": proof.guard_band})
    if not any(proof.status == "verified" for proof in proofs if proof.id in accepted):
        raise BundleError("no engine agrees with the checkpoint: there is no bundle")
    return accepted


def _parity_line(proof: EngineParity) -> str:
    if proof.status == "not_run":
        return f"{proof.id:24} {proof.status:10} {proof.reason}"
    figures = f"{proof.max_score_deviation:9.2e} {proof.max_heatmap_deviation:9.2e} {proof.flips:5}"
    return f"{proof.id:24} {proof.status:10} {figures}"


def _tell_thresholds(thresholds: Thresholds, say: Say) -> None:
    least = 1 / (thresholds.calibration_size + 1)
    budget = f"at most {thresholds.max_false_reject:.2%} of good parts rejected"
    if thresholds.promised:
        say("Budget", f"{budget}: promised")
    else:
        say(
            "Budget",
            f"{budget}: NOT promised, {thresholds.calibration_size} images promise {least:.2%} at best",
        )
        say("", "the threshold is the largest score seen plus a margin")
    for name, scale in (("image", thresholds.image), ("pixel", thresholds.pixel)):
        say("Threshold", f"{name} {scale.threshold:.5f} (median of good {scale.median:.5f})")


def _provenance(checkpoint: Checkpoint) -> Provenance:
    return Provenance(
        created=datetime.now(UTC),
        checkpoint=file_digest(checkpoint.directory / "checkpoint.safetensors"),
        recipe=checkpoint.recipe.name,
        backbone=checkpoint.recipe.backbone,
        seed=checkpoint.seed,
        libraries={
            **checkpoint.libraries,
            **{name: library_version(name) for name in ("onnx", "onnxruntime")},
        },
    )
