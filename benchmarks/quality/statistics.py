"""Medians of ratios, and how sure they are."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

RESAMPLES = 4000


def median_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median, and the 95 % interval of the medians of resampled values (Efron's percentile bootstrap).

    NaN for no values. Of few values the interval is a rough one: of fewer than six it is all of them.
    """
    if not values:
        return math.nan, (math.nan, math.nan)
    rng = random.Random(0)
    found = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), (found[round(0.025 * (RESAMPLES - 1))], found[round(0.975 * (RESAMPLES - 1))])


def told(values: Sequence[float]) -> str:
    """``0.93 (0.88 to 0.99)``."""
    middle, (low, high) = median_and_interval(values)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})" if values else "–"
