"""The output of drd-export, as aligned lines."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from scipy.stats import beta

from export.bundle.manifest import FLOAT32_CONVOLUTIONS, GoldenFrame, Thresholds
from export.calibrate import allowed_rejects
from export.proof import Proved

Say = Callable[[str, str], None]
"""Prints a topic and a line of text; an empty topic continues the one before."""


def show_thresholds(thresholds: Thresholds, say: Say) -> None:
    """The thresholds, and whether there are enough calibration images to guarantee the error budget."""
    say("Budget", f"at most {_percent(thresholds.max_false_reject)} of good parts rejected")
    if thresholds.promised:
        say("", f"guaranteed on average by {thresholds.calibration_size} calibration images;")
        say("", f"with 95 % confidence at most {_percent(rejected_at_most(thresholds))}")
    else:
        least = 1 / (thresholds.calibration_size + 1)
        say(
            "",
            f"NOT guaranteed: {thresholds.calibration_size} calibration images guarantee {_percent(least)} "
            "at best;",
        )
        say("", "the threshold is the largest score of a good part plus a margin")
    say("Threshold", f"{'':6} {'reject over':>12} {'median good':>12}   raw values")
    for name, scale in (("image", thresholds.image), ("pixel", thresholds.pixel)):
        say("", f"{name:6} {scale.threshold:12.5f} {scale.median:12.5f}")


def rejected_at_most(thresholds: Thresholds, confidence: float = 0.95) -> float:
    """The share of good parts that a promised threshold rejects at most, at this confidence.

    The threshold is the k-th largest of n scores: the share of new ones above it is Beta(k, n + 1 − k).
    """
    n = thresholds.calibration_size
    k = allowed_rejects(n, thresholds.max_false_reject)
    return float(beta.ppf(confidence, k, n + 1 - k))


def show_golden(entries: Sequence[GoldenFrame], say: Say) -> None:
    """The number of golden frames of each kind, and a warning if none shows a defective part."""
    kinds = Counter(entry.kind for entry in entries)
    say("Golden", f"{len(entries)} frames: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if not kinds["defective"]:
        say("", "no defective part is known: the engines are not proved on any")


def show_parity(certified: Iterable[Proved], left_out: Mapping[str, str], say: Say) -> None:
    """One line per engine: the largest deviations from the checkpoint, on the 0 to 1 scales, and the time per
    image at the smallest and at the largest batch size."""
    say(
        "Parity",
        f"{'engine':24} {'status':8} {'score':>8} {'heatmap':>8} {'guard':>8} {'flips':>5}  ms/image",
    )
    for entry, proof in certified:
        start = f"{proof.id:24} {proof.status:8}"
        if proof.status == "not_run":
            say("", f"{start} {proof.reason}")
            continue
        deviations = f"{proof.max_score_deviation:8.1e} {proof.max_heatmap_deviation:8.1e}"
        times = proof.ms_per_image
        speed = f"{times[0]:5.1f} … {times[-1]:.1f}" if times else "not timed"
        if entry.float32_convolutions != FLOAT32_CONVOLUTIONS:
            speed += f" ({entry.float32_convolutions} convolutions in float32)"
        say("", f"{start} {deviations} {proof.guard_band:8.1e} {proof.flips:5} {speed}")
    for name, reason in left_out.items():
        say("", f"{name:24} left out: {reason}")


def _percent(share: float) -> str:
    """With two decimals, but never 0.00% for a small `share`."""
    return f"{share:.2%}" if share >= 0.001 else f"{100 * share:.2g}%"
