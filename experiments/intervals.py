"""Intervals of means over seeds, and verdicts on what others claim."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
LEVEL = 0.95


def quantile(count: int) -> float:
    """Student's t for the mean of so many values, on both sides."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, count - 1))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of their mean by Student's t; all numbers where there is but one value.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) == 1:
        return -math.inf, math.inf
    mean = statistics.fmean(values)
    half = quantile(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half
