"""The watch over the discriminator's accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .watch import DEFAULTS, Thresholds


class Balance:
    """Keeps the discriminator neither blind nor beyond reach, by the share of pairs with the real one judged higher.

    0.5 is guessing, 1 has won. 0.55 to 0.75 is normal while the LoRA improves, and no success or failure of either.
    """

    def __init__(self, lines: list[str] | None = None, thresholds: Thresholds = DEFAULTS) -> None:
        """Lines of text are appended to ``lines``."""
        self.thresholds = thresholds
        self.lines: list[str] = [] if lines is None else lines
        self.updates = 0
        self.knows = True
        """False while the discriminator guesses: the adversarial weight is then to be 0."""
        self._average = 0.0
        self._long_average = 0.0
        self._blind_for = 0
        self._won_for = 0
        self._episode = ""
        self._overfit = 0.0
        self._overfit_for = 0
        self._request = ""

    @property
    def average(self) -> float:
        """Exponential average of the pair accuracy without its bias towards 0; 0.5 before the first update."""
        return self._debiased(self._average, self.thresholds.average_decay)

    @property
    def long_average(self) -> float:
        """The slower average, which decides on ``knows``."""
        return self._debiased(self._long_average, self.thresholds.long_average_decay)

    def update(self, pair_accuracy: float, *, warmup: bool = False) -> None:
        """Take in the accuracy on fresh pairs, in [0, 1], once for each update of the LoRA or of the warm-up.

        It has to come from the LoRA's own update where the discriminator is not updated: otherwise nothing shows that
        the LoRA has caught up. In the warm-up only the averages follow: there the LoRA cannot answer yet. Raises
        ``ValueError`` for a value out of range.
        """
        if not 0 <= pair_accuracy <= 1:
            raise ValueError(f"pair_accuracy must be in [0, 1], got {pair_accuracy}.")
        limits = self.thresholds
        self.updates += 1
        self._average += (1 - limits.average_decay) * (pair_accuracy - self._average)
        self._long_average += (1 - limits.long_average_decay) * (pair_accuracy - self._long_average)
        if warmup or self.updates < limits.average_minimum:
            return
        self._follow_ratio()
        self._follow_knowledge()
        self._follow_dominance()

    def discriminator_updates(self, base: int) -> int:
        """Number of discriminator updates before the next one of the LoRA: ``base`` + 1, ``base`` or 0."""
        if self.updates < self.thresholds.average_minimum:
            return base
        if self.average > self.thresholds.strong:
            return 0
        return base + 1 if self.average < self.thresholds.weak else base

    def check_overfit(self, train_real: float, held_out_real: float, fake: float, augmentation_at_limit: bool) -> None:
        """Compare mean logits on training, held-out and fake latents, at a validation.

        The measure is (train - held out) / (train - fake): 0 where held-out pictures are judged like those trained on,
        1 where they are judged like fakes. Augmentation answers it first; only at its limit is there a warning.
        """
        limits = self.thresholds
        gap = train_real - fake
        # Without a gap the discriminator tells nothing apart, and so has learnt nothing by heart.
        self._overfit = (train_real - held_out_real) / gap if gap > 0 else 0.0
        self._overfit_for = self._overfit_for + 1 if self._overfit > limits.overfit and augmentation_at_limit else 0
        if self._overfit_for == limits.overfit_checks:
            self.lines.append(
                f"The discriminator judges held-out pictures {self._overfit:.2f} of the way from training pictures to "
                f"fakes (limit {limits.overfit:g}, at {limits.overfit_checks} checks in a row), although augmentation "
                "is at its limit: it knows the training pictures by heart. Nothing is changed; add pictures, raise r1, "
                "or lower its learning rate or width."
            )

    def take_request(self) -> str:
        """The reason to lower the adversarial weight, or an empty text; asked a second time it is empty."""
        request, self._request = self._request, ""
        return request

    def scalars(self) -> dict[str, float]:
        """Both averages, ``knows`` as 0 or 1, and the last overfit measure."""
        return {
            "pair_accuracy_average": self.average,
            "pair_accuracy_long_average": self.long_average,
            "discriminator_knows": float(self.knows),
            "discriminator_overfit": self._overfit,
        }

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON."""
        return {
            "updates": self.updates,
            "knows": self.knows,
            "average": self._average,
            "long_average": self._long_average,
            "blind_for": self._blind_for,
            "won_for": self._won_for,
            "episode": self._episode,
            "overfit": self._overfit,
            "overfit_for": self._overfit_for,
            "request": self._request,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        self.updates, self.knows = state["updates"], state["knows"]
        self._average, self._long_average = state["average"], state["long_average"]
        self._blind_for, self._won_for = state["blind_for"], state["won_for"]
        self._episode, self._request = state["episode"], state["request"]
        self._overfit, self._overfit_for = state["overfit"], state["overfit_for"]

    def _debiased(self, average: float, decay: float) -> float:
        return average / (1 - decay**self.updates) if self.updates else 0.5

    def _follow_ratio(self) -> None:
        """One line when the discriminator becomes weak or strong; the next only after it was clearly neither."""
        limits, average = self.thresholds, self.average
        if average > limits.strong and self._episode != "strong":
            self._episode = "strong"
            self._say(
                f"{average:.3f} (limit {limits.strong:g}): the discriminator dominates. With an adaptive ratio it is "
                "not updated while that lasts, so that the LoRA can catch up"
            )
        elif average < limits.weak and self._episode != "weak":
            self._episode = "weak"
            self._say(
                f"{average:.3f} (limit {limits.weak:g}): the discriminator lags. With an adaptive ratio it gets one "
                "update more while that lasts, so that its gradient means something"
            )
        elif limits.weak + 0.05 < average < limits.strong - 0.05:
            self._episode = ""

    def _follow_knowledge(self) -> None:
        limits, average = self.thresholds, self.long_average
        self._blind_for = self._blind_for + 1 if average < limits.blind else 0
        if self.knows and self._blind_for >= limits.blind_updates:
            self.knows = False
            self._say(
                f"{average:.3f} (limit {limits.blind:g}, for {limits.blind_updates} updates): the discriminator "
                "guesses. The adversarial loss is paused, since its gradient is noise"
            )
        elif not self.knows and average > limits.sees_again:
            self.knows = True
            self._say(
                f"{average:.3f} (limit {limits.sees_again:g}): the discriminator sees again. The adversarial loss is "
                "resumed, since its gradient means something"
            )

    def _follow_dominance(self) -> None:
        limits = self.thresholds
        self._won_for = self._won_for + 1 if self.average > limits.won else 0
        if self._won_for >= limits.won_updates:
            # Counted anew, so that each further lowering of the weight is given as long to show its effect.
            self._won_for = 0
            self._request = (
                f"pair accuracy averages {self.average:.3f} (limit {limits.won:g}, for {limits.won_updates} updates): "
                "the discriminator has won, and its gradient only pushes the LoRA about"
            )

    def _say(self, seen: str) -> None:
        self.lines.append(f"Pair accuracy averages {seen}.")
