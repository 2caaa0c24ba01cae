"""Whether the discriminator learns the training pictures by heart, and how often what it sees is augmented for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from ...discriminator.augment import AdaptiveProbability
from .. import draws
from ..config import AdversarialStageConfig, DiscriminatorConfig
from ..data.batches import Batch, held_out_batches, in_few_step_mode
from ..data.real_latents import RealLatents
from .balance import Balance

# Updates of the discriminator between two looks at held-out reals. Where nothing is steered by them they serve a note
# alone, which a look at every validation's distance is early enough for.
OVERFITTING_EVERY = 8
OVERFITTING_EVERY_UNSTEERED = 32
OVERFITTING_PICTURES = 16


class Overfitting:
    """Compares, now and then, verdicts on held-out reals with those on training reals; more augmentation answers it."""

    def __init__(
        self, data: RealLatents, judge: DiscriminatorConfig, config: AdversarialStageConfig, two_samplers: bool
    ) -> None:
        self._data, self._config, self._two_samplers = data, config, two_samplers
        self._adaptive = judge.augmentation == "adaptive"
        self.augmentation = AdaptiveProbability(0.0 if judge.augmentation == "off" else judge.augmentation_probability)

    def due(self, taught: int) -> bool:
        """Whether held-out reals are looked at after ``taught`` updates of the discriminator.

        Never where nobody would hear of it: without watch and without adaptive augmentation.
        """
        if not self._data.held_out or not (self._adaptive or self._config.watch):
            return False
        return (taught - 1) % (OVERFITTING_EVERY if self._adaptive else OVERFITTING_EVERY_UNSTEERED) == 0

    def reals(self, draw: int) -> Iterator[Batch]:
        """The held-out reals to look at, on the CPU, in batches of at most ``batch_size``.

        Of many those are drawn anew for each ``draw``. For two samplers half of them, drawn too, are for the few-step
        one, each with the prompt of its sampler.
        """
        held_out = self._data.held_out
        order = torch.randperm(len(held_out), generator=draws.generator(self._config.seed, draw, 0, "held-out reals"))
        chosen = [held_out[place] for place in order[:OVERFITTING_PICTURES].tolist()]
        modes = in_few_step_mode(draw, range(len(chosen))) if self._two_samplers else (False,) * len(chosen)
        for few in (True, False):
            data = replace(self._data, held_out=tuple(i for i, mode in zip(chosen, modes, strict=True) if mode == few))
            # Its own draws for every picture, whatever its sampler.
            first = 0 if few else sum(modes)
            for batch in held_out_batches(data, self._config.batch_size, few_step=few):
                yield replace(
                    batch,
                    positions=tuple(first + position for position in batch.positions),
                    few_step=(few,) * len(batch.positions) if self._two_samplers else (),
                )

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
