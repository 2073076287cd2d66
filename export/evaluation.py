"""Quality figures of a checkpoint or a bundle on labelled images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.bundle.manifest import BATCH_SIZES
from export.bundle.predict import Predictor
from export.bundle.reading import Reading, Verdict, read
from export.scoring import Scored, score_pictures
from training import evaluate as training_evaluate
from training.checkpoint import Checkpoint
from training.datasets import Dataset, DatasetError, Sample
from training.evaluate import Predict
from training.geometry import Geometry, picture_digest
from training.metrics import Quality

Judge = Callable[[Scored], Reading]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One picture. `kind` is "good" or the defect's name; `score` (0 to 1), `verdict` and `reason` are None
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
    """Figures of a labelled test set, and the result of each picture."""

    quality: Quality
    images: tuple[ImageResult, ...]

    @property
    def judged(self) -> bool:
        """Whether the pictures have verdicts: True for a bundle."""
        return any(image.verdict for image in self.images)

    def share(self, verdict: Verdict, *, defective: bool) -> float | None:
        """Fraction of the good, or the `defective`, pictures with this `verdict`; None without pictures."""
        verdicts = [image.verdict for image in self.images if image.defective == defective]
        return verdicts.count(verdict) / len(verdicts) if verdicts else None

    def as_dict(self) -> dict[str, object]:
        """For JSON: figures, for a bundle also rates at its threshold, and every picture's result."""
        figures: dict[str, object] = dict(self.quality.as_dict())
        if self.judged:
            figures["false_reject_rate"] = self.share("NG", defective=False)
            figures["miss_rate"] = self.share("OK", defective=True)
            figures["review_rate_good"] = self.share("REVIEW", defective=False)
            figures["review_rate_defective"] = self.share("REVIEW", defective=True)
        return figures | {"images": [asdict(image) for image in self.images]}


def labelled(dataset: Dataset) -> tuple[Sample, ...]:
    """The pictures to measure on: the test set, or a plain folder's pictures. Raises DatasetError."""
    if dataset.test:
        return dataset.test
    if dataset.layout == "plain folder":
        return dataset.train
    raise DatasetError(f"{dataset.root}: {dataset.layout} layout without test images")


def new_to(checkpoint: Checkpoint, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Those of `samples` that training has not learned from. Raises DatasetError if it has seen all."""
    learned = checkpoint.learned
    new = tuple(
        sample for sample in samples if picture_digest(sample.path, checkpoint.geometry) not in learned
    )
    if not new:
        raise DatasetError(f"all {len(samples)} pictures were used in training; give others")
    return new


def evaluate(
    predict: Predict,
    geometry: Geometry,
    samples: Sequence[Sample],
    judge: Judge | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Evaluation:
    """Runs `predict` on `samples` in these `batch_sizes`; `judge` gives the verdicts of a bundle.

    Raises UnreadableImage, DatasetError and FrameFailed.
    """
    images = list[ImageResult]()

    def results() -> Iterator[tuple[NDArray[np.float32], float]]:
        paths = [sample.path for sample in samples]
        pictures = score_pictures(predict, paths, geometry, "evaluate", batch_sizes)
        for sample, picture in zip(samples, pictures, strict=True):
            images.append(_result(sample, picture, judge))
            yield picture.heatmap, picture.raw_score

    scored = training_evaluate.evaluate(samples, results(), geometry)
    return Evaluation(scored.quality, tuple(images))


def predict_of(predictor: Predictor) -> Predict:
    """`predictor.predict` with the signature that training/evaluate.py expects."""

    def predict(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        prediction = predictor.predict(frames)
        return prediction.heatmap, prediction.score

    return predict


def judge_of(predictor: Predictor) -> Judge:
    """Turns outputs of `predictor` into verdicts, as the service does."""
    manifest, guard_band = predictor.bundle.manifest, predictor.guard_band

    def judge(picture: Scored) -> Reading:
        return read(
            picture.heatmap, picture.raw_score, picture.statistics, manifest, guard_band, picture.source_size
        )

    return judge


def _result(sample: Sample, picture: Scored, judge: Judge | None) -> ImageResult:
    plain = ImageResult(sample.name, sample.kind, picture.raw_score)
    if judge is None:
        return plain
    reading = judge(picture)
    return replace(plain, score=reading.score, verdict=reading.verdict, reason=reading.reason)
