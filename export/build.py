"""Checkpoint → bundle: calibrate, trace, verify the engines, publish."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import packages_distributions
from importlib.metadata import version as library_version
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.bundle.manifest import FLOAT16_GRAPH, GRAPH, BundleError, Manifest, Provenance
from export.bundle.signature import SigningKey
from export.calibrate import Calibration, CalibrationError, calibrate
from export.engines import try_damage, verified_engines
from export.float16 import to_float16
from export.golden import HEATMAPS, choose_golden
from export.pack import file_digests, newest_version, next_version, publish, refuse_taken, staging_folder
from export.parity import Baseline
from export.prepare import check_buildable
from export.report import say, show_golden, show_thresholds
from export.roi import Roi, read_roi
from export.sources import calibration_images, defective_images
from export.trace import trace
from export.validation import validation_frames
from training.checkpoint import DRD, RESUME, Checkpoint, load_checkpoint
from training.evaluate import score_images
from training.geometry import Geometry
from training.messages import suspects
from training.names import UNKNOWN, is_product_name

_RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt")
"""Libraries whose versions the manifest records, if they are installed."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of `drd-export`: what to make of the checkpoint in the folder `checkpoint`, and into which
    folder `models`.

    `calibration` None: the images that training set aside; `max_false_reject`: 0 to 0.5; `min_area`: pixels
    of the sent image; `version` None: the next one; `roi`: JSON file (export/roi.py); `engines` None: all
    that can be built here; `key`: PEM file of the private key that signs the bundle.
    """

    checkpoint: Path
    models: Path
    calibration: Path | None
    max_false_reject: float
    min_area: int
    version: int | None
    roi: Path | None
    engines: tuple[str, ...] | None
    key: Path | None
    skip_unreadable: bool


def build(options: ExportOptions) -> Path:
    """Makes a bundle and returns its folder. Raises what `export.errors` lists."""
    checkpoint = load_checkpoint(options.checkpoint)
    product = options.models / _checked_name(checkpoint.product)
    refuse_taken(product, options.version)
    _refuse_unwritable(options.models, product)
    check_buildable(options.engines)
    key = None if options.key is None else SigningKey(options.key)
    geometry, backbone = checkpoint.geometry, checkpoint.recipe.backbone
    roi = None if options.roi is None else read_roi(options.roi, geometry)
    say("Product", f"{checkpoint.product}: {backbone} at {geometry.height} x {geometry.width}")
    if options.version and options.version < (newest := newest_version(product)):
        say("Version", f"{options.version} will not be served while {newest} is there: the highest one is")
    if (options.checkpoint / RESUME).exists():
        say("Checkpoint", f"a training in {options.checkpoint} has not ended: this may be of an earlier one")
    drd = checkpoint.model()
    parts = calibration_images(checkpoint, options.calibration, options.skip_unreadable)
    good = list(parts)
    if roi is not None:
        _apply(roi, drd, good)
    defective = defective_images(checkpoint, options.calibration)
    inside = drd.heatmap.roi.numpy() > 0
    calibration = _calibrated(options, drd, geometry, parts, inside)
    thresholds = calibration.thresholds
    golden = choose_golden(calibration.scores, thresholds.image.threshold, defective, geometry, drd.predict)
    show_golden(golden.entries)
    if options.calibration is None:  # no engine is made with what sets the threshold
        to_validate = good
        to_quantise = [checkpoint.data_root / record.name for record in checkpoint.learned]
    else:  # apart, so that the ranges are tried on other images
        to_validate, to_quantise = good[1::2], good[::2]
    validation = validation_frames(to_validate, defective, geometry, drd.predict)
    with staging_folder(options.models) as root:
        _write_graphs(drd, geometry, root)
        golden.save(root)
        baseline = Baseline(root, geometry, golden, validation, thresholds)
        engines = verified_engines(options.engines, baseline, to_quantise)
        try_damage(engines, baseline, calibration.scores, inside)
        manifest = Manifest(
            product=checkpoint.product,
            version=options.version or next_version(product),
            geometry=geometry,
            thresholds=thresholds,
            min_area=options.min_area,
            roi=roi and roi.region,
            frame_ranges=calibration.frame_ranges,
            engines=engines,
            golden=golden.entries,
            golden_heatmaps=HEATMAPS,
            provenance=_provenance(checkpoint),
            files=file_digests(root),
        )
        bundle = publish(root, product, manifest, options.version, key)
    say("Bundle", f"{bundle}{', signed' if key else ''}")
    return bundle


def _checked_name(product: str) -> str:
    """A checkpoint's description can be edited, and a product's name becomes a folder."""
    if not is_product_name(product):
        raise BundleError(
            f"{product!r} can't be a product's name: letters, digits, '.', '_' and '-', and not {UNKNOWN!r}"
        )
    return product


def _refuse_unwritable(*folders: Path) -> None:
    """Fails early; the folders are made only when there is something to put in them."""
    for folder in folders:
        places = (folder, *folder.absolute().parents)
        there = next(path for path in places if path.exists() or path.is_symlink())  # a link to nothing, too
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise BundleError(f"{there}: no folder that this user may write in")


def _apply(roi: Roi, drd: DRD, good: Sequence[Path]) -> None:
    """Sets the mask of `drd`: before calibration, since it changes every score."""
    roi.check_shape(good)
    drd.heatmap.set_roi(torch.from_numpy(roi.mask))
    say("Region", f"{roi.region.share:.1%} of the picture is inspected, see {roi.path}")


def _calibrated(
    options: ExportOptions,
    drd: DRD,
    geometry: Geometry,
    parts: Mapping[Path, str],
    inside: NDArray[np.bool_],
) -> Calibration:
    """Calibrates on the images in `parts`, which says which part each shows. `inside` `[H, W]`: the pixels of
    the region of interest."""
    scored = score_images(drd.predict, list(parts), geometry, "calibrate")
    calibration = calibrate(scored, parts, options.max_false_reject, inside)
    inspected = math.ceil(calibration.largest * float(inside.mean()))
    if options.min_area > inspected:
        raise CalibrationError(
            f"no part could be NG: of the largest calibration image {inspected} pixels are inspected, and "
            f"--min-area asks for a defect of {options.min_area}"
        )
    show_thresholds(calibration.thresholds)
    say("Highest", suspects(calibration.scores.items()))  # a defective one would let others pass
    return calibration


def _write_graphs(drd: DRD, geometry: Geometry, root: Path) -> None:
    say("Graph", "tracing the network, about ten seconds …")
    graph = trace(drd, geometry)
    onnx.save(graph, root / GRAPH)
    onnx.save(to_float16(graph), root / FLOAT16_GRAPH)


def _provenance(checkpoint: Checkpoint) -> Provenance:
    return Provenance(
        created=datetime.now(UTC),
        checkpoint=checkpoint.tensors_sha256,
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
