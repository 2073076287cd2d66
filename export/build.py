"""Checkpoint → bundle: calibrate, trace, prove the engines, publish."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import packages_distributions
from importlib.metadata import version as library_version
from pathlib import Path

import onnx
import torch

from export.accept import Parity, certify
from export.bundle.engines.kinds import EVERYWHERE
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
from export.calibrate import CalibrationError, calibrate
from export.engines import prepare, refuse
from export.golden import HEATMAPS, choose_golden, spread
from export.half import halve
from export.pack import newest_version, publish, refuse_taken, staging_folder
from export.proof import EngineParity, Proved, Trial
from export.report import Say, show_golden, show_parity, show_thresholds
from export.roi import read_roi
from export.sources import calibration_images, defective_images
from export.survey import Survey
from export.trace import trace
from training.checkpoint import DRD, TENSORS, Checkpoint, CheckpointError, load_checkpoint
from training.evaluate import read_frames, score_images
from training.files import file_digest
from training.geometry import Geometry
from training.names import PRODUCT_NAME

_RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt")
"""Libraries whose versions the manifest records, if they are installed."""

_QUANTISED_ON = 64
"""Most frames the quantiser sees: more hardly widen the activation ranges."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to make of the checkpoint in the folder `checkpoint`, and into which folder `models`.

    `calibration` None: the images that training set aside; `engines` None: all that can be built here;
    `version` None: the next one; `key`: PEM file of the private key that signs the bundle.
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
    """Makes a bundle and returns its folder. Raises what `export.errors` lists."""
    checkpoint = load_checkpoint(order.checkpoint)
    product = order.models / _checked_name(checkpoint.product)
    refuse_taken(product, order.version)
    refuse(order.engines)
    key = None if order.key is None else SigningKey(order.key)
    geometry, backbone = checkpoint.geometry, checkpoint.recipe.backbone
    say("Product", f"{checkpoint.product}: {backbone} at {geometry.height} x {geometry.width}")
    if order.version and order.version < (newest := newest_version(product)):
        say("Version", f"{order.version} will not be served while {newest} is there: the highest one is")
    drd, tensors = _network(checkpoint)
    good = calibration_images(checkpoint, order.calibration, say)
    roi = _apply_roi(order.roi, drd, geometry, good, say)
    defective = defective_images(checkpoint, order.calibration, say)
    inside = drd.heatmap.roi.numpy() > 0
    scored = score_images(drd.predict, good, geometry, "calibrate")
    calibration = calibrate(scored, order.max_false_reject, inside)
    _check_min_area(order.min_area, calibration.largest)
    thresholds = calibration.thresholds
    show_thresholds(thresholds, say)
    golden = choose_golden(calibration.scores, thresholds.image.threshold, defective, geometry, drd.predict)
    show_golden(golden.entries, say)
    to_survey, to_quantise = good[1::2], good[::2]  # apart, so that the survey checks the quantiser's ranges
    survey = Survey.take(to_survey, defective, geometry, drd.predict)
    with staging_folder(order.models) as root:
        _write_graphs(drd, geometry, root, say)
        golden.save(root)
        frames = read_frames(spread(to_quantise, _QUANTISED_ON), geometry)
        prepared = prepare(order.engines, root, geometry, frames)
        certified, unfit = certify(prepared.entries, Trial(root, geometry, golden, survey, thresholds))
        show_parity(certified, prepared.left_out | unfit, say)
        kept = [(entry, proof) for entry, proof in certified if entry.id not in unfit]
        engines = _write_certificate(root, kept, len(golden.frames))

        def describe(version: int, files: Mapping[str, str]) -> Manifest:
            return Manifest(
                product=checkpoint.product,
                version=version,
                geometry=geometry,
                thresholds=thresholds,
                min_area=order.min_area,
                roi=roi,
                frame_ranges=calibration.frame_ranges,
                engines=engines,
                golden=golden.entries,
                golden_heatmaps=HEATMAPS,
                provenance=_provenance(checkpoint, tensors),
                files=dict(files),
            )

        bundle = publish(root, product, describe, order.version, key)
    say("Bundle", f"{bundle}{', signed' if key else ''}")
    return bundle


def _checked_name(product: str) -> str:
    """A checkpoint's description can be edited, and a product's name becomes a folder."""
    if not PRODUCT_NAME.fullmatch(product):
        raise BundleError(f"{product!r} can't be a product's name: use letters, digits, '.', '_' and '-'")
    return product


def _network(checkpoint: Checkpoint) -> tuple[DRD, str]:
    """The network, and the digest of the tensors it has. Raises CheckpointError, also if a training replaced
    them meanwhile."""
    path = checkpoint.directory / TENSORS
    try:
        digest = file_digest(path)
        drd = checkpoint.model()
        changed = file_digest(path) != digest
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    if changed:
        raise CheckpointError(f"{path}: changed while it was read; export again when training has ended")
    return drd, digest


def _apply_roi(
    path: Path | None, drd: DRD, geometry: Geometry, good: Sequence[Path], say: Say
) -> RegionOfInterest | None:
    """Sets the mask of `drd` from the file `path`: before calibration, since it changes every score."""
    if path is None:
        return None
    region, mask = read_roi(path, geometry, good)
    drd.heatmap.set_roi(torch.from_numpy(mask))
    say("Region", f"{region.share:.1%} of the picture is inspected, see {path}")
    return region


def _write_graphs(drd: DRD, geometry: Geometry, root: Path, say: Say) -> None:
    say("Graph", "tracing the network, about ten seconds …")
    graph = trace(drd, geometry)
    onnx.save(graph, root / GRAPH)
    onnx.save(halve(graph), root / HALF_GRAPH)


def _write_certificate(root: Path, kept: Sequence[Proved], frames: int) -> tuple[EngineEntry, ...]:
    """Writes `parity.json`, the proofs on `frames` golden frames of the engines that are `kept`, deletes the
    files of the others, and returns the kept ones as the manifest lists them, in the same order. Raises
    BundleError without the one that runs everywhere."""
    if EVERYWHERE not in {proof.id for _, proof in kept if proof.status == "verified"}:
        raise BundleError(f"{EVERYWHERE} does not agree with the checkpoint, so there is no bundle")
    used = {root / name for entry, _ in kept for name in (entry.file, entry.plan and entry.plan.file) if name}
    for path in {root / INT8_GRAPH, *root.glob("engines/*")} - used:
        path.unlink(missing_ok=True)
    parity = Parity(frames=frames, engines=tuple(proof for _, proof in kept))
    (root / "parity.json").write_text(parity.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return tuple(_measured(entry, proof) for entry, proof in kept)


def _check_min_area(min_area: int, largest: int) -> None:
    """`largest`: pixels of the largest calibration picture."""
    if min_area > largest:
        raise CalibrationError(
            f"no part could be NG: the largest calibration image has {largest} pixels, and --min-area asks "
            f"for a defect of {min_area}"
        )


def _measured(entry: EngineEntry, proof: EngineParity) -> EngineEntry:
    measured = {"guard_band": proof.guard_band, "heatmap_deviation": proof.max_heatmap_deviation}
    return EngineEntry.model_validate(entry.model_dump() | measured)


def _provenance(checkpoint: Checkpoint, tensors: str) -> Provenance:
    return Provenance(
        created=datetime.now(UTC),
        checkpoint=tensors,
        recipe=checkpoint.recipe.name,
        backbone=checkpoint.recipe.backbone,
        seed=checkpoint.seed,
        libraries=checkpoint.libraries | installed(_RUNTIMES),
    )


def installed(modules: Iterable[str]) -> dict[str, str]:
    """Versions of those `modules` that are installed. A package can have another name than its module:
    `onnxruntime` is part of onnxruntime-gpu, too."""
    packages = packages_distributions()
    return {name: library_version(packages[name][0]) for name in modules if name in packages}
