"""The output of drd-export, as aligned lines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal

from scipy.stats import beta

from export.accept import Candidate
from export.bundle.manifest import FLOAT32_CONVOLUTIONS, EngineEntry, GoldenFrame, Thresholds
from export.calibrate import allowed_rejects, parts_needed
from export.parity import EngineParity

_CONFIDENCE = 0.95


def say(topic: str, line: str) -> None:
    """Prints a topic and a line of text; an empty topic continues the one before."""
    print(f"{topic:12} {line}", flush=True)


def show_thresholds(thresholds: Thresholds) -> None:
    """The thresholds, and whether there are enough calibration parts to guarantee the error budget."""
    say("Budget", f"at most {_percent(thresholds.max_false_reject)} of good parts NG; REVIEW comes on top")
    if thresholds.promised:
        say("", f"guaranteed on average by {thresholds.calibration_size} calibration parts;")
        say("", f"with {100 * _CONFIDENCE:.0f} % confidence at most {_percent(rejected_at_most(thresholds))}")
    else:
        least = _percent(1 / (thresholds.calibration_size + 1))
        needed = parts_needed(thresholds.max_false_reject)
        say("", f"NOT guaranteed: {thresholds.calibration_size} calibration parts guarantee {least} at best;")
        say("", f"it takes {needed}: train with more, or give new ones with --calibration; till then")
        say("", "the threshold is the largest score of a good part plus a margin")
    say("Threshold", f"{'':6} {'reject over':>12} {'median good':>12}   raw values")
    for name, scale in (("image", thresholds.image), ("pixel", thresholds.pixel)):
        say("", f"{name:6} {scale.threshold:12.5f} {scale.median:12.5f}")


def rejected_at_most(thresholds: Thresholds) -> float:
    """The fraction of good parts that the threshold rejects at most, with 95 % confidence.

    The threshold is the k-th largest of n scores, or above the largest if nothing is promised: the fraction
    of new ones above it is Beta(k, n + 1 − k).
    """
    n = thresholds.calibration_size
    k = max(1, allowed_rejects(n, thresholds.max_false_reject))
    return float(beta.ppf(_CONFIDENCE, k, n + 1 - k))


def show_golden(entries: Sequence[GoldenFrame]) -> None:
    """The number of golden frames of each kind, and a warning if none shows a defective part."""
    kinds = Counter(entry.kind for entry in entries)
    say("Golden", f"{len(entries)} frames: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if not kinds["defective"]:
        say("", "no defective part is known: the engines are not proved on any")


def show_parity(candidates: Iterable[Candidate], left_out: Mapping[str, str]) -> None:
    """One line per engine that was compared: the largest deviations from the checkpoint, on the 0 to 1
    scales, and the time per image at the smallest and at the largest batch size. Then one per engine that was
    left out or is rejected, with the reason."""
    say(
        "Parity",
        f"{'engine':24} {'status':8} {'score':>8} {'heatmap':>8} {'guard':>8} {'flips':>5}  ms/image",
    )
    rejected = dict(left_out)
    for candidate in candidates:
        if candidate.parity is not None:
            say("", _parity_row(candidate.entry, candidate.parity))
        if candidate.rejection is not None:
            rejected[candidate.entry.id] = candidate.rejection
    for name, reason in rejected.items():
        say("", f"{name:24} left out: {reason}")


def _parity_row(entry: EngineEntry, parity: EngineParity) -> str:
    start = f"{parity.id:24} {parity.status:8}"
    if parity.status == "not_run":
        return f"{start} {parity.reason}"
    deviations = f"{parity.max_score_deviation:8.1e} {parity.max_heatmap_deviation:8.1e}"
    times = parity.ms_per_image
    speed = f"{times[0]:5.1f} … {times[-1]:.1f}" if times else "not timed"
    if entry.float32_convolutions != FLOAT32_CONVOLUTIONS:
        speed += f" ({entry.float32_convolutions} convolutions in float32)"
    return f"{start} {deviations} {parity.guard_band:8.1e} {parity.flips:5} {speed}"


def _percent(fraction: float) -> str:
    """A bound, so rounded up: to two decimals, or to two digits where it is under 0.1 %."""
    percent = 100 * Decimal(str(fraction))
    last = Decimal("0.01") if percent >= Decimal("0.1") else Decimal(1).scaleb(percent.adjusted() - 1)
    return f"{percent.quantize(last, ROUND_CEILING):f}%"
