"""Medians of ratios and their intervals, on laws whose medians are known."""

from __future__ import annotations

import math
import random

import pytest

from fluxduel.benchmarks.quality.statistics import median_and_interval, told


def test_an_interval_holds_the_true_median_as_often_as_it_says():
    """Of samples from a law with median 1: 95 % asked, the percentile bootstrap of 18 values gives a little less."""
    rng = random.Random(1)
    held = 0
    for _ in range(200):
        _, (low, high) = median_and_interval([math.exp(rng.gauss(0, 0.3)) for _ in range(18)])
        held += low <= 1 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_interval_is_around_the_median_and_within_the_values():
    values = [0.5, 0.9, 0.7, 1.4, 0.8, 0.6]
    middle, (low, high) = median_and_interval(values)
    assert middle == pytest.approx(0.75)
    assert min(values) <= low < middle < high <= max(values)


def test_nothing_is_no_number():
    middle, interval = median_and_interval([])
    assert math.isnan(middle) and all(math.isnan(end) for end in interval)
    assert told([]) == "–" and told([0.5]) == "0.5 (0.5 to 0.5)"
