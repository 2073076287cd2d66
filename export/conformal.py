"""Split-conformal thresholds: what an error budget promises of new good parts, and how many it takes."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.stats import beta

CONFIDENCE = 0.95
"""Of `rejected_at_most`."""


def is_promised(count: int, budget: float) -> bool:
    """Whether `count` parts guarantee a probability of at most `budget` that a good part is rejected."""
    return allowed_rejects(count, budget) >= 1


def allowed_rejects(count: int, budget: float) -> int:
    """How many of `count` calibration parts the budget lets reach the threshold: ⌊(n+1)·budget⌋.

    Exact for the decimal number that the user typed: in binary, 100·0.29 is below 29.
    """
    return math.floor((count + 1) * Fraction(str(budget)))


def parts_needed(budget: float) -> int:
    """The least number of calibration parts with which `budget` is promised."""
    return math.ceil(1 / Fraction(str(budget))) - 1


def conformal_threshold(values: Sequence[float], budget: float) -> float:
    """The split-conformal threshold: a new good part exceeds it with a probability of at most
    `budget`.

    A new value exceeds the k-th largest of n with probability k/(n+1), so k = ⌊(n+1)·budget⌋. For k = 0 there
    is no guarantee: the threshold is the largest value plus a margin for an exponential tail above the
    median.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if (rejected := allowed_rejects(len(ordered), budget)) >= 1:
        return float(ordered[-rejected])
    upper = ordered[len(ordered) // 2 :]
    decay = max(0.0, float(upper.mean() - np.median(ordered)))
    return float(ordered[-1]) + decay * math.log(1 / ((len(ordered) + 1) * budget))


def rejected_at_most(count: int, budget: float) -> float:
    """The fraction of good parts that the threshold of `count` parts rejects at most, with 95 % confidence.

    The threshold is the k-th largest of n scores, or above the largest if nothing is promised: the fraction
    of new ones above it is Beta(k, n + 1 − k).
    """
    k = max(1, allowed_rejects(count, budget))
    return float(beta.ppf(CONFIDENCE, k, count + 1 - k))
