"""What drd-evaluate found: quality figures and, of a bundle, the verdict on each part."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from scipy.stats import binom

from export.bundle.manifest import Thresholds
from export.bundle.reading import Verdict
from export.conformal import rejected_at_most
from training.metrics import Quality

_NAMED = 5
"""Images named of each kind of mistake."""

_BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Between which people choose."""

_CHANCE = 0.001
"""Rarer than this, the share of good parts that are NG is said to be no chance."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image. `kind` is "good" or the defect's name; `score` (0 to 1), `verdict` and `reason` are None
    for a checkpoint, which has no threshold. `unfamiliar` names what makes it `unlike_training`."""

    name: str
    kind: str
    part: str
    """Which it shows: its own name, if nothing else tells."""
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

    def as_dict(self) -> dict[str, object]:
        """For JSON: subject, figures, for a bundle also rates of parts at its threshold, every image's
        result."""
        figures = self.subject | self.quality.as_dict()
        if self.thresholds:
            good, defective = self._good_and_defective(_severity)
            figures["false_reject_rate"] = _fraction(good, "NG")
            figures["miss_rate"] = _fraction(defective, "OK")
            figures["review_rate_good"] = _fraction(good, "REVIEW")
            figures["review_rate_defective"] = _fraction(defective, "REVIEW")
        return figures | {"images": [asdict(image) for image in self.images]}

    def lines(self) -> Iterator[str]:
        """For people: figures, what other thresholds would give and, for a bundle, its verdicts."""
        for name, value in self.quality.as_dict().items():
            if value is not None and not name.startswith("n_"):
                yield f"  {name:12} {value:.4f}"
        if lost := self.quality.n_masks_lost:
            yield f"  {lost} masks have no pixel at the network's size, and no part in the pixel figures"
        yield from self._trade_off()
        if self.thresholds:
            yield from self._verdicts(self.thresholds)

    def _trade_off(self) -> Iterator[str]:
        """What other thresholds would give here: how many defective parts pass with the lowest at which at
        most so many good ones are NG. A budget's own lies higher, by what is left to chance."""
        good, defective = self._good_and_defective(lambda image: image.raw_score)
        if good and defective:
            limits = (good[-1 - int(budget * len(good))].raw_score for budget in _BUDGETS)
            missed = (sum(part.raw_score <= limit for part in defective) / len(defective) for limit in limits)
            yield f"  if at most   {_percentages(_BUDGETS)} of these good are NG"
            yield f"  there pass   {_percentages(missed)} of defective"

    def _verdicts(self, thresholds: Thresholds) -> Iterator[str]:
        good, defective = self._good_and_defective(_severity)
        counted = "images" if len(good) + len(defective) == len(self.images) else "parts"
        yield f"  {'':12} {counted:>7} {'OK':>8} {'REVIEW':>8} {'NG':>8}"
        yield from _row("good", good)
        yield from _row("defective", defective)
        kinds = sorted({part.kind for part in defective})
        for kind in kinds if len(kinds) > 1 else ():
            yield from _row(f"  {kind}", [part for part in defective if part.kind == kind])
        reviewed = [part for part in (*good, *defective) if part.verdict == "REVIEW"]
        reasons = Counter(" ".join([part.reason or "", *part.unfamiliar]) for part in reviewed)
        for reason, count in reasons.most_common():
            yield f"  REVIEW       {count:7} {reason}"
        rejected = [part for part in good[::-1] if part.verdict == "NG"]
        yield from _named("good, but NG", rejected)
        yield from _named("defective, but OK", [part for part in defective if part.verdict == "OK"])
        usual = rejected_at_most(thresholds.calibration_size, thresholds.max_false_reject)
        if binom.sf(len(rejected) - 1, len(good), usual) < _CHANCE:
            yield (
                "WARNING: more good parts are NG than the error budget explains: they are unlike those that "
                "set the threshold (another day, lamp or lot?); learn from such parts, too"
            )

    def _good_and_defective(
        self, key: Callable[[ImageResult], float | tuple[int, float]]
    ) -> tuple[list[ImageResult], list[ImageResult]]:
        """Of each part the image with the highest `key`, as any that is not OK ejects it; in that order."""
        images = sorted(self.images, key=key)
        parts = sorted({(image.kind, image.part): image for image in images}.values(), key=key)
        return [part for part in parts if not part.defective], [part for part in parts if part.defective]


def _severity(image: ImageResult) -> tuple[int, float]:
    """Sort key of images with verdicts."""
    assert image.verdict is not None
    assert image.score is not None
    return ("OK", "REVIEW", "NG").index(image.verdict), image.score


def _fraction(parts: Sequence[ImageResult], verdict: Verdict) -> float | None:
    """Of `parts`, those with this `verdict`; None without parts."""
    return sum(part.verdict == verdict for part in parts) / len(parts) if parts else None


def _row(name: str, parts: Sequence[ImageResult]) -> Iterator[str]:
    """How many there are, and how often each verdict was given."""
    if parts:
        fractions = (_fraction(parts, verdict) for verdict in ("OK", "REVIEW", "NG"))
        yield f"  {name:12} {len(parts):7} {_percentages(fractions)}"


def _percentages(fractions: Iterable[float | None]) -> str:
    return " ".join(f"{fraction:8.1%}" for fraction in fractions)


def _named(topic: str, parts: Sequence[ImageResult]) -> Iterator[str]:
    """Names the first of them, with their scores."""
    if parts:
        yield f"  {topic}:"
        for part in parts[:_NAMED]:
            yield f"    {part.score:.2f} {part.name}"
        if len(parts) > _NAMED:
            yield f"    and {len(parts) - _NAMED} more: --json names all"
