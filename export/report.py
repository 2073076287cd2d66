"""The output of drd-export, as aligned lines."""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal

from export.accept import Candidate
from export.bundle.manifest import FLOAT32_CONVOLUTIONS, GoldenFrame, Thresholds
from export.conformal import CONFIDENCE, parts_needed, rejected_at_most
from export.prepare import LeftOut
from export.sensitivity import Sensitivity


def say(topic: str, line: str) -> None:
    """Prints a topic and a line of text; an empty topic continues the one before."""
    print(f"{topic:12} {line}", flush=True)


def show_thresholds(thresholds: Thresholds) -> None:
    """The thresholds, and whether there are enough calibration parts to guarantee the error budget."""
    count, budget = thresholds.calibration_size, thresholds.max_false_reject
    say("Budget", f"at most {_percent(budget)} of good parts NG; REVIEW comes on top")
    if thresholds.promised:
        most = _percent(rejected_at_most(count, budget))
        say("", f"guaranteed on average by {count} calibration parts;")
        say("", f"with {100 * CONFIDENCE:.0f} % confidence at most {most}")
    else:
        say("", f"NOT guaranteed: {count} calibration parts guarantee {_percent(1 / (count + 1))} at best;")
        needed = parts_needed(budget)
        say("", f"it takes {needed}: train with more, or give new ones with --calibration; till then")
        say("", "the threshold is the largest score of a good part plus a margin")
    say("Threshold", f"{'':6} {'reject over':>12} {'median good':>12}   raw values")
    for name, scale in (("image", thresholds.image), ("pixel", thresholds.pixel)):
        say("", f"{name:6} {scale.threshold:12.5f} {scale.median:12.5f}")


def show_golden(entries: Sequence[GoldenFrame]) -> None:
    """The number of golden frames of each kind, and a warning if none shows a defective part."""
    kinds = Counter(entry.kind for entry in entries)
    say("Golden", f"{len(entries)} frames: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if not kinds["defective"]:
        say("", "no defective part is known: the engines are not proved on any")


def show_parity(candidates: Iterable[Candidate], left_out: LeftOut) -> None:
    """One line per engine that was compared: the largest deviations from the checkpoint, on the 0 to 1
    scales, and the time per image at the smallest and at the largest batch size. Then one per engine that is
    left out, with the reason."""
    say(
        "Parity",
        f"{'engine':24} {'status':8} {'score':>8} {'heatmap':>8} {'guard':>8} {'flips':>5}  ms/image",
    )
    for candidate in candidates:
        say("", _parity_row(candidate))
    for name, reason in left_out.items():
        say("", f"{name:24} left out: {reason}")


def _parity_row(candidate: Candidate) -> str:
    parity, in_float32 = candidate.parity, candidate.entry.float32_convolutions
    start = f"{parity.id:24} {parity.status:8}"
    if parity.status == "not_run":
        return f"{start} {parity.reason}"
    deviations = f"{parity.max_score_deviation:8.1e} {parity.max_heatmap_deviation:8.1e}"
    times = parity.ms_per_image
    speed = f"{times[0]:5.1f} … {times[-1]:.1f}" if times else "not timed"
    if in_float32 != FLOAT32_CONVOLUTIONS:
        speed += f" ({in_float32} convolutions in float32)"
    return f"{start} {deviations} {parity.guard_band:8.1e} {parity.flips:5} {speed}"


def show_sensitivity(tried: Sensitivity) -> None:
    """How much of the damage drawn on good pictures is found: a line for each kind, a column for each
    length."""
    width, height = tried.size
    say("Damage", f"drawn on {tried.pictures} good pictures, and found (not OK), by contrast and length in")
    lengths = "".join(f"{length:6.0f}" for length in tried.lengths)
    say("", f"{f'pixels of a picture of {width} x {height}':34}{lengths}")
    for damage, found in tried.found.items():
        say("", f"{damage:34}" + "".join(f"{share:6.0%}" for share in found))


def _percent(fraction: float) -> str:
    """A bound, so rounded up: to two decimals, or to two digits where it is under 0.1 %."""
    percent = 100 * Decimal(str(fraction))
    last = Decimal("0.01") if percent >= Decimal("0.1") else Decimal(1).scaleb(percent.adjusted() - 1)
    return f"{percent.quantize(last, ROUND_CEILING):f}%"
