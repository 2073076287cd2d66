"""Measures a checkpoint or a bundle on labelled images."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from export.bundle.bundle import Bundle, Predictor
from export.bundle.frame import frame_statistics
from export.bundle.reading import read, require_finite
from export.evaluation import Evaluation, ImageResult
from export.sources import readable, unseen
from training.checkpoint import Checkpoint, load_checkpoint
from training.datasets import Dataset, DatasetError, Sample, open_dataset, parts_of
from training.evaluate import Scored, evaluate, score_images
from training.geometry import Geometry, frame_digest

_LABEL = "evaluate"
"""Label of the progress bar."""


def evaluate_checkpoint(folder: Path, data: Path, skip: bool) -> Evaluation:
    """Measures the checkpoint in `folder`, which has no threshold, on the images in `data`; `skip`: on those
    that can be read. Prints what is measured. Raises what `export.errors` lists."""
    checkpoint = load_checkpoint(folder)
    dataset = open_dataset(data, checkpoint.product)
    print(f"{checkpoint.product}, checkpoint {folder}\n{dataset}")
    samples = _labelled(dataset, checkpoint.geometry, skip)
    if not dataset.test:
        samples = unseen(checkpoint, samples)
    paths = [sample.path for sample in samples]
    scored = score_images(checkpoint.model().predict, paths, checkpoint.geometry, _LABEL)
    results = _warning_of_learned(scored, checkpoint)
    return _evaluated({"product": checkpoint.product}, samples, results, checkpoint.geometry, None)


def _warning_of_learned(results: Iterable[Scored], checkpoint: Checkpoint) -> Iterator[Scored]:
    """`results`; says at their end if some are of pictures that training has learned from."""
    learned, seen = {record.frame_sha256 for record in checkpoint.learned}, list[Path]()
    for scored in results:
        if frame_digest(scored.frame) in learned:
            seen.append(scored.path)
        yield scored
    if seen:
        print(
            f"WARNING: {len(seen)} of these pictures were learned from, which flatters the figures; the "
            f"first is {seen[0]}"
        )


def evaluate_bundle(
    folder: Path, data: Path, skip: bool, engine: str, same_part: re.Pattern[str] | None
) -> Evaluation:
    """The same for the bundle in `folder`, on `engine`, an id or "auto"; verdicts by the service's code, on
    parts, of which `same_part` tells what pictures show one (None: each picture shows another)."""
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    dataset = open_dataset(data, manifest.product)
    with closing(bundle.start(engine)) as predictor:
        print(f"{manifest.product} version {manifest.version} on {predictor.engine_id}\n{dataset}")
        samples = _labelled(dataset, manifest.geometry, skip)
        if not dataset.test:
            print("WARNING: if some were learned from or calibrated with, they flatter the figures")
        subject = {
            "product": manifest.product,
            "version": manifest.version,
            "bundle_digest": bundle.digest,
            "engine": predictor.engine_id,
        }
        paths = [sample.path for sample in samples]
        scored = score_images(predictor.predict, paths, manifest.geometry, _LABEL, predictor.batch_sizes)
        parts = parts_of(samples, same_part) if same_part else None
        return _evaluated(subject, samples, scored, manifest.geometry, predictor, parts)


def _labelled(dataset: Dataset, geometry: Geometry, skip: bool) -> Sequence[Sample]:
    """The images to measure on: the test set, or a plain folder's images; `skip`: the readable ones. Raises
    DatasetError."""
    samples = dataset.train if dataset.layout == "plain folder" else dataset.test
    if not samples:
        raise DatasetError(f"{dataset.root}: {dataset.layout} layout without test images")
    if skip and not (samples := tuple(readable(samples, geometry))):
        raise DatasetError(f"{dataset.root}: no test image can be read")
    return samples


def _evaluated(
    subject: dict[str, object],
    samples: Sequence[Sample],
    results: Iterable[Scored],
    geometry: Geometry,
    predictor: Predictor | None,
    parts: Sequence[str] | None = None,
) -> Evaluation:
    images = list[ImageResult]()

    def judged() -> Iterator[Scored]:
        names = parts or [sample.name for sample in samples]
        for sample, part, scored in zip(samples, names, results, strict=True):
            images.append(_result(sample, part, scored, predictor))
            yield scored

    figures = evaluate(samples, judged(), geometry).quality
    thresholds = None if predictor is None else predictor.bundle.manifest.thresholds
    return Evaluation(subject, figures, tuple(images), thresholds)


def _result(sample: Sample, part: str, scored: Scored, predictor: Predictor | None) -> ImageResult:
    """The result of one image, with a verdict if `predictor` is given."""
    require_finite(scored.heatmap, scored.score, f"{scored.path}: the network's output for it")
    if predictor is None:
        return ImageResult(sample.name, sample.kind, part, scored.score)
    finding, _ = read(
        scored.heatmap,
        scored.score,
        frame_statistics(scored.frame, scored.source_size),
        predictor.bundle.manifest,
        predictor.guard_band,
        scored.source_size,
    )
    return ImageResult(
        sample.name,
        sample.kind,
        part,
        scored.score,
        finding.score,
        finding.verdict,
        finding.reason,
        finding.unfamiliar,
    )
