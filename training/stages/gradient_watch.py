"""The watch over one network's gradients."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from .watch import DEFAULTS, Thresholds

# 1.4826 x the median absolute deviation estimates a normal's standard deviation.
MAD_TO_DEVIATION = 1.4826


class GradientWatch:
    """Finds the updates of one network that should not be applied, by their gradient's norm before clipping."""

    def __init__(self, network: str, lines: list[str] | None = None, thresholds: Thresholds = DEFAULTS) -> None:
        """``network`` is the name in the lines of text, which are appended to ``lines``."""
        self.network, self.thresholds = network, thresholds
        self.lines: list[str] = [] if lines is None else lines
        self.updates = 0
        self.skipped = 0
        self._log_norms: deque[float] = deque(maxlen=thresholds.gradient_memory)
        self._skips: deque[int] = deque()
        self._non_finite = 0
        self._request = ""

    def outlier(self, norm: float) -> bool:
        """Whether the update with this gradient norm is to be skipped. Call once for each update, skipped or not.

        NaN and infinity always are, from the first update on.
        """
        self.updates += 1
        limit = self.thresholds.outlier
        if not math.isfinite(norm):
            self._non_finite += 1
            self._skip(f"its gradient's norm is {norm} (limit: finite)")
            return True
        self._non_finite = 0
        if norm <= 0:
            # A paused loss has no gradient. It says nothing of the size of the others, and has no logarithm.
            return False
        deviation = self._deviation(norm)
        if deviation > limit:
            self._skip(
                f"its gradient's norm {norm:.3g} is {deviation:.1f} deviations above the median "
                f"{math.exp(statistics.median(self._log_norms)):.3g} (limit {limit:g})"
            )
            return True
        self._log_norms.append(math.log(norm))
        return False

    def take_request(self) -> str:
        """The reason to roll back, or an empty text; asked a second time it is empty."""
        request, self._request = self._request, ""
        return request

    def forget(self) -> None:
        """Begin anew, after a roll back: the norms and skips belong to weights that are gone."""
        self._log_norms.clear()
        self._skips.clear()
        self._non_finite = 0
        self._request = ""

    def scalars(self) -> dict[str, float]:
        """Number of skipped updates so far."""
        return {"skipped_updates": float(self.skipped)}

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON."""
        return {
            "updates": self.updates,
            "skipped": self.skipped,
            "log_norms": list(self._log_norms),
            "skips": list(self._skips),
            "non_finite": self._non_finite,
            "request": self._request,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        self.updates, self.skipped = state["updates"], state["skipped"]
        self._log_norms = deque(state["log_norms"], maxlen=self.thresholds.gradient_memory)
        self._skips = deque(state["skips"])
        self._non_finite, self._request = state["non_finite"], state["request"]

    def _deviation(self, norm: float) -> float:
        if len(self._log_norms) < self.thresholds.gradient_minimum:
            return 0.0
        median = statistics.median(self._log_norms)
        spread = MAD_TO_DEVIATION * statistics.median(abs(value - median) for value in self._log_norms)
        return (math.log(norm) - median) / max(spread, self.thresholds.least_deviation)

    def _skip(self, seen: str) -> None:
        limits = self.thresholds
        self.skipped += 1
        self._skips.append(self.updates)
        while self._skips[0] <= self.updates - limits.skip_window:
            self._skips.popleft()
        self.lines.append(
            f"An update of the {self.network} is skipped, so that one bad sample does not undo many good ones: {seen}."
        )
        if self._non_finite >= limits.non_finite:
            self._request = (
                f"{self._non_finite} gradients of the {self.network} in a row are not finite (limit "
                f"{limits.non_finite}): its weights themselves are broken"
            )
        elif len(self._skips) > limits.skips:
            self._request = (
                f"{len(self._skips)} of the last {limits.skip_window} updates of the {self.network} were skipped "
                f"(limit {limits.skips}): more than single bad samples"
            )
