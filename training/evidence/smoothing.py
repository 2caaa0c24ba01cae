"""The smoothed line through a curve. web/js/smoothing.js draws the same one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

# Share of the planned updates that the weights fall off over, within these limits.
SHARE, NARROWEST, WIDEST = 1 / 20, 1.0, 100.0


def window(total: int) -> float:
    """Updates over which a weight falls to 1/e, for a run of ``total``: the past of a curve does not change it."""
    return min(WIDEST, max(NARROWEST, total * SHARE))


def smoothed(steps: Sequence[float], values: Sequence[float], width: float) -> list[float]:
    """At each step the straight line that fits the values around it best, with weights exp(-|distance| / ``width``).

    A local linear fit: unlike a trailing mean it does not lag behind a slope, neither within the curve nor at its end,
    where only one side is known. Steps ascend and may have gaps. Nothing leaves the range of the values.
    """
    if not values:
        return []
    low, high = min(values), max(values)
    after = reversed(list(_sums([-step for step in reversed(steps)], values[::-1], width)))
    fitted = []
    for value, left, right in zip(values, _sums(steps, values, width), after, strict=True):
        # The point itself is in both sides; distances of the right one count the other way.
        weight, first, second = left[0] + right[0] - 1, left[1] - right[1], left[2] + right[2]
        mean, moment = left[3] + right[3] - value, left[4] - right[4]
        spread = weight * second - first * first
        fit = (mean * second - moment * first) / spread if spread > 1e-9 * weight * weight else mean / weight
        fitted.append(min(high, max(low, fit)))
    return fitted


def _sums(
    steps: Sequence[float], values: Sequence[float], width: float
) -> Iterator[tuple[float, float, float, float, float]]:
    """For each point, over it and all before it: the weights, the same times distance, times its square, times value,
    times value and distance. Distances are negative."""
    weight = first = second = mean = moment = 0.0
    last = steps[0]
    for step, value in zip(steps, values, strict=True):
        gap, last = step - last, step
        decay = math.exp(-gap / width)
        second = decay * (second - 2 * gap * first + gap * gap * weight)
        first = decay * (first - gap * weight)
        moment = decay * (moment - gap * mean)
        weight, mean = decay * weight + 1, decay * mean + value
        yield weight, first, second, mean, moment
