"""Whether the discriminator learns the training pictures by heart, and how often what it sees is augmented for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...discriminator.augment import AdaptiveProbability
from ..config import DiscriminatorConfig
from ..data.batches import Batch, held_out_batches, in_few_step_mode
from ..data.real_latents import RealLatents
from .balance import Balance

# Updates of the discriminator between two looks at held-out reals.
OVERFITTING_EVERY = 8
OVERFITTING_SAMPLES = 16


class Overfitting:
    """Compares, now and then, verdicts on held-out reals with those on training reals; more augmentation answers it."""

    def __init__(self, data: RealLatents, judge: DiscriminatorConfig, two_samplers: bool) -> None:
        self._data, self._two_samplers = data, two_samplers
        self._adaptive = judge.augmentation == "adaptive"
        self.augmentation = AdaptiveProbability(0.0 if judge.augmentation == "off" else judge.augmentation_probability)

    def due(self, taught: int) -> bool:
        """Whether held-out reals are looked at after ``taught`` updates of the discriminator."""
        return (taught - 1) % OVERFITTING_EVERY == 0 and bool(self._data.held_out)

    def reals(self, draw: int) -> Batch:
        """The held-out reals to look at, on the CPU."""
        batch = next(held_out_batches(self._data, OVERFITTING_SAMPLES, few_step=False))
        return replace(batch, few_step=in_few_step_mode(draw, batch.positions) if self._two_samplers else ())

    def answer(self, real: float, held_out: float, fake: float, balance: Balance) -> dict[str, float]:
        """Augment more or less often, and tell ``balance``: mean logits of training reals, held-out reals, fakes."""
        values = {"held_out_logits": held_out}
        if self._adaptive:
            self.augmentation.update(real, held_out, fake)
            values["augmentation_probability"] = self.augmentation.probability
        at_limit = not self._adaptive or self.augmentation.probability >= self.augmentation.ceiling
        balance.check_overfit(real, held_out, fake, at_limit)
        return values

    def state(self) -> dict[str, float]:
        """All that later looks depend on, as JSON."""
        return self.augmentation.state_dict()

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what ``state()`` gave."""
        self.augmentation.load_state_dict(state)
