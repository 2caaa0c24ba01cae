"""The smoothed line does not lag, and needs nothing outside the values."""

from __future__ import annotations

import math
import random

import pytest

from fluxduel.training.evidence.smoothing import smoothed, window


def by_hand(steps: list[int], values: list[float], width: float, at: int) -> float:
    """The weighted least-squares line around one step, straight from its definition."""
    distances = [step - steps[at] for step in steps]
    weights = [math.exp(-abs(distance) / width) for distance in distances]
    w = sum(weights)
    x = sum(weight * distance for weight, distance in zip(weights, distances, strict=True))
    xx = sum(weight * distance**2 for weight, distance in zip(weights, distances, strict=True))
    v = sum(weight * value for weight, value in zip(weights, values, strict=True))
    xv = sum(
        weight * distance * value for weight, distance, value in zip(weights, distances, values, strict=True)
    )
    return (v * xx - xv * x) / (w * xx - x * x)


@pytest.mark.parametrize("width", [1.0, 8.0, 60.0])
def test_it_is_the_local_line(width: float) -> None:
    chance = random.Random(1)
    steps = sorted(chance.sample(range(300), 90))
    values = [chance.gauss(0, 1) + step / 100 for step in steps]
    low, high = min(values), max(values)
    expected = [min(high, max(low, by_hand(steps, values, width, at))) for at in range(len(steps))]
    assert smoothed(steps, values, width) == pytest.approx(expected)


def test_a_slope_is_followed_without_a_lag_up_to_its_end() -> None:
    steps = [*range(0, 50), *range(60, 200, 3)]
    values = [3.0 - step / 100 for step in steps]
    assert smoothed(steps, values, 20) == pytest.approx(values)


def test_noise_is_taken_out() -> None:
    chance = random.Random(0)
    values = [chance.gauss(0, 1) for _ in range(2000)]
    middle = smoothed(range(2000), values, 50)[200:1800]
    assert math.sqrt(sum(value**2 for value in middle) / len(middle)) < 0.15


def test_single_and_constant_values_stay() -> None:
    assert smoothed([], [], 5) == []
    assert smoothed([7], [0.3], 5) == [0.3]
    assert smoothed(range(40), [2.5] * 40, 5) == pytest.approx([2.5] * 40)


def test_it_never_leaves_the_values() -> None:
    values = [1.0, 0.5, 0.2, 0.05, 0.01]
    assert all(0.01 <= value <= 1.0 for value in smoothed(range(5), values, 3))


def test_the_window_is_a_share_of_the_run() -> None:
    assert [window(total) for total in (1, 40, 1000, 10**6)] == [1, 2, 50, 100]
