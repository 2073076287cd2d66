"""Quality figures of a checkpoint or a bundle on labelled images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from export.bundle.bundle import Predictor
from export.bundle.frame import frame_statistics
from export.bundle.reading import Verdict, read, require_finite
from export.sources import readable
from training.checkpoint import Checkpoint
from training.datasets import Dataset, DatasetError, Sample
from training.evaluate import Scored, evaluate, score_images
from training.geometry import Geometry
from training.metrics import Quality

_LABEL = "evaluate"
"""Of the progress bar."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image. `kind` is "good" or the defect's name; `score` (0 to 1), `verdict` and `reason` are None
    for a checkpoint, which has no threshold."""

    name: str
    kind: str
    raw_score: float
    score: float | None = None
    verdict: Verdict | None = None
    reason: str | None = None

    @property
    def defective(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a labelled test set, and the result of each of its images."""

    quality: Quality
    images: tuple[ImageResult, ...]

    @property
    def judged(self) -> bool:
        """Whether the images have verdicts: True for a bundle."""
        return any(image.verdict for image in self.images)

    def fraction(self, verdict: Verdict, *, defective: bool) -> float | None:
        """Fraction of the good, or the `defective`, images with this `verdict`; None without images."""
        verdicts = [image.verdict for image in self.images if image.defective == defective]
        return verdicts.count(verdict) / len(verdicts) if verdicts else None

    def as_dict(self) -> dict[str, object]:
        """For JSON: figures, for a bundle also rates at its threshold, and every image's result."""
        figures: dict[str, object] = dict(self.quality.as_dict())
        if self.judged:
            figures["false_reject_rate"] = self.fraction("NG", defective=False)
            figures["miss_rate"] = self.fraction("OK", defective=True)
            figures["review_rate_good"] = self.fraction("REVIEW", defective=False)
            figures["review_rate_defective"] = self.fraction("REVIEW", defective=True)
        return figures | {"images": [asdict(image) for image in self.images]}


def labelled(dataset: Dataset, geometry: Geometry, skip: bool) -> Sequence[Sample]:
    """The images to measure on: the test set, or a plain folder's images; `skip`: the readable ones. Raises
    DatasetError."""
    samples = dataset.train if dataset.layout == "plain folder" else dataset.test
    if not samples:
        raise DatasetError(f"{dataset.root}: {dataset.layout} layout without test images")
    if skip and not (samples := tuple(readable(samples, geometry))):
        raise DatasetError(f"{dataset.root}: no test image can be read")
    return samples


def evaluate_checkpoint(checkpoint: Checkpoint, samples: Sequence[Sample]) -> Evaluation:
    """Figures of `checkpoint`, which has no threshold. Raises UnreadableImage, DatasetError, FrameFailed."""
    paths = [sample.path for sample in samples]
    scored = score_images(checkpoint.model().predict, paths, checkpoint.geometry, _LABEL)
    return _evaluated(samples, scored, checkpoint.geometry, None)


def evaluate_bundle(predictor: Predictor, samples: Sequence[Sample]) -> Evaluation:
    """Figures of an engine and, with the service's code, its verdicts. Raises what the other one does, and
    EngineFailed."""
    paths, geometry = [sample.path for sample in samples], predictor.bundle.manifest.geometry
    scored = score_images(predictor.predict, paths, geometry, _LABEL, predictor.batch_sizes)
    return _evaluated(samples, scored, geometry, predictor)


def _evaluated(
    samples: Sequence[Sample], results: Iterable[Scored], geometry: Geometry, predictor: Predictor | None
) -> Evaluation:
    images = list[ImageResult]()

    def judged() -> Iterator[Scored]:
        for sample, scored in zip(samples, results, strict=True):
            images.append(_result(sample, scored, predictor))
            yield scored

    return Evaluation(evaluate(samples, judged(), geometry).quality, tuple(images))


def _result(sample: Sample, scored: Scored, predictor: Predictor | None) -> ImageResult:
    """With a verdict if `predictor` has given the scores."""
    require_finite(scored.heatmap, scored.score, f"{scored.path}: the network's output for it")
    plain = ImageResult(sample.name, sample.kind, scored.score)
    if predictor is None:
        return plain
    finding, _ = read(
        scored.heatmap,
        scored.score,
        frame_statistics(scored.frame, scored.source_size),
        predictor.bundle.manifest,
        predictor.guard_band,
        scored.source_size,
    )
    return replace(plain, score=finding.score, verdict=finding.verdict, reason=finding.reason)
