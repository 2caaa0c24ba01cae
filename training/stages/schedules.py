"""How a weight moves from its first to its last value over a stage."""

from __future__ import annotations

import math


def annealed(schedule: str, first: float, last: float, progress: float) -> float:
    """The value at ``progress`` in [0, 1]. ``constant`` stays at ``first``; ``linear``; ``cosine`` is half a period.

    Raises ``ValueError`` for another schedule.
    """
    if schedule == "constant":
        return first
    if schedule == "linear":
        return first + (last - first) * progress
    if schedule == "cosine":
        return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
    raise ValueError(f"Unknown schedule {schedule!r}: constant, linear or cosine.")
