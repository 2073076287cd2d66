"""Quality figures of a checkpoint or a bundle on labelled images."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import binom

from export.bundle.bundle import Bundle, Predictor
from export.bundle.frame import frame_statistics
from export.bundle.manifest import Thresholds
from export.bundle.reading import Verdict, read, require_finite
from export.conformal import rejected_at_most
from export.sources import readable, unseen
from training.checkpoint import load_checkpoint
from training.datasets import Dataset, DatasetError, Sample, open_dataset
from training.evaluate import Scored, evaluate, score_images
from training.geometry import Geometry
from training.metrics import Quality

_LABEL = "evaluate"
"""Label of the progress bar."""

_CHANCE = 0.001
"""Rarer than this, the share of good parts that are NG is said to be no chance."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image. `kind` is "good" or the defect's name; `score` (0 to 1), `verdict` and `reason` are None
    for a checkpoint, which has no threshold. `unfamiliar` names what makes it `unlike_training`."""

    name: str
    kind: str
    raw_score: float
    score: float | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    unfamiliar: tuple[str, ...] = ()

    @property
    def defective(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a labelled test set, and the result of each of its images."""

    subject: dict[str, object]
    """What was measured: the product and, of a bundle, version, digest and engine."""
    quality: Quality
    images: tuple[ImageResult, ...]
    thresholds: Thresholds | None
    """A bundle's, whose images have verdicts; None for a checkpoint."""

    def fraction(self, verdict: Verdict, *, defective: bool) -> float | None:
        """Fraction of the good, or the `defective`, images with this `verdict`; None without images."""
        verdicts = [image.verdict for image in self.images if image.defective == defective]
        return verdicts.count(verdict) / len(verdicts) if verdicts else None

    def as_dict(self) -> dict[str, object]:
        """For JSON: subject, figures, for a bundle also rates at its threshold, every image's result."""
        figures = self.subject | self.quality.as_dict()
        if self.thresholds:
            figures["false_reject_rate"] = self.fraction("NG", defective=False)
            figures["miss_rate"] = self.fraction("OK", defective=True)
            figures["review_rate_good"] = self.fraction("REVIEW", defective=False)
            figures["review_rate_defective"] = self.fraction("REVIEW", defective=True)
        return figures | {"images": [asdict(image) for image in self.images]}

    def lines(self) -> Iterator[str]:
        """For people: figures and, for a bundle, how often each verdict was given."""
        for name, value in self.quality.as_dict().items():
            if value is not None and not name.startswith("n_"):
                yield f"  {name:12} {value:.4f}"
        if lost := self.quality.n_masks_lost:
            yield f"  {lost} masks have no pixel at the network's size, and no part in the pixel figures"
        if self.thresholds:
            yield f"  {'':12} {'images':>7} {'OK':>8} {'REVIEW':>8} {'NG':>8}"
            yield from self._verdict_rows()
            yield from self._reasons()
            if self._breaks_promise(self.thresholds):
                yield (
                    "WARNING: more good parts are NG than the error budget explains: they are unlike those "
                    "that set the threshold (another day, lamp or lot?); learn from such parts, too"
                )

    def _verdict_rows(self) -> Iterator[str]:
        counts = {"good": self.quality.n_good, "defective": self.quality.n_defective}
        for name, count in counts.items():
            fractions = (
                self.fraction(verdict, defective=name == "defective") for verdict in ("OK", "REVIEW", "NG")
            )
            if count:
                yield f"  {name:12} {count:7} " + " ".join(f"{fraction:8.1%}" for fraction in fractions)

    def _reasons(self) -> Iterator[str]:
        """Why images are REVIEW."""
        reasons = Counter(
            " ".join([image.reason or "", *image.unfamiliar])
            for image in self.images
            if image.verdict == "REVIEW"
        )
        for reason, count in reasons.most_common():
            yield f"  REVIEW       {count:7} {reason}"

    def _breaks_promise(self, thresholds: Thresholds) -> bool:
        """Whether good parts like those of calibration would hardly ever be NG as often as these."""
        verdicts = [image.verdict for image in self.images if not image.defective]
        usual = rejected_at_most(thresholds.calibration_size, thresholds.max_false_reject)
        return bool(binom.sf(verdicts.count("NG") - 1, len(verdicts), usual) < _CHANCE)


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
    return _evaluated({"product": checkpoint.product}, samples, scored, checkpoint.geometry, None)


def evaluate_bundle(folder: Path, data: Path, skip: bool, engine: str) -> Evaluation:
    """The same for the bundle in `folder`, on `engine`, an id or "auto"; verdicts by the service's code."""
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
        return _evaluated(subject, samples, scored, manifest.geometry, predictor)


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
) -> Evaluation:
    images = list[ImageResult]()

    def judged() -> Iterator[Scored]:
        for sample, scored in zip(samples, results, strict=True):
            images.append(_result(sample, scored, predictor))
            yield scored

    figures = evaluate(samples, judged(), geometry).quality
    thresholds = None if predictor is None else predictor.bundle.manifest.thresholds
    return Evaluation(subject, figures, tuple(images), thresholds)


def _result(sample: Sample, scored: Scored, predictor: Predictor | None) -> ImageResult:
    """The result of one image, with a verdict if `predictor` is given."""
    require_finite(scored.heatmap, scored.score, f"{scored.path}: the network's output for it")
    if predictor is None:
        return ImageResult(sample.name, sample.kind, scored.score)
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
        scored.score,
        finding.score,
        finding.verdict,
        finding.reason,
        finding.unfamiliar,
    )
