"""How the adversarial gradient is weighed against the flow loss's, at the predicted velocity."""

from __future__ import annotations

import math

_DECAY = 0.9
_LIMIT = 10.0


class GradientRatio:
    """A weight that keeps the adversarial gradient at ``ratio`` of the flow loss's.

    ``weight = ratio * average(|g_flow|) / average(|g_adversarial|)``, both norms taken at the velocity, where they are
    exact and free: VQGAN's adaptive weight (arXiv:2012.09841, eq. 7) at the generator's output instead of its last
    layer. The averages are of earlier updates, so that the weight does not depend on how a batch is cut. It stays
    within ten times its first value: against a discriminator that knows nothing the adversarial gradient tends to 0,
    and the weight would grow without bound.
    """

    def __init__(self, ratio: float, first: float) -> None:
        self._ratio, self._first = ratio, first
        self._flow = self._adversarial = self._reference = 0.0
        self._updates = 0

    @property
    def weight(self) -> float:
        """The weight of the next update; ``first`` before anything was seen."""
        if not self._updates or self._adversarial <= 0:
            return self._first
        return min(self._ratio * self._flow / self._adversarial, _LIMIT * self._reference)

    def update(self, flow: float, adversarial: float) -> None:
        """Take in the gradients' norms of one update. What is not finite is left out."""
        if not (math.isfinite(flow) and math.isfinite(adversarial)):
            return
        self._updates += 1
        share = max(1 - _DECAY, 1 / self._updates)
        self._flow += share * (flow - self._flow)
        self._adversarial += share * (adversarial - self._adversarial)
        if self._updates == 1:
            self._reference = self._ratio * flow / adversarial if adversarial > 0 else self._first

    def state_dict(self) -> dict[str, float]:
        """All that a checkpoint needs, in plain numbers."""
        return {name: getattr(self, f"_{name}") for name in ("flow", "adversarial", "reference", "updates")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from what ``state_dict`` gave."""
        for name in ("flow", "adversarial", "reference", "updates"):
            setattr(self, f"_{name}", state[name])
