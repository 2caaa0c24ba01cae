"""Watches stage 2 and decides what to do where it goes wrong: numbers in, decisions and lines of text out.

``GradientWatch`` judges each gradient's norm, ``Balance`` the discriminator's accuracy, ``Checkups`` what is measured
at each validation. ``Monitor`` passes requests of the first two to the third, which alone lowers the adversarial
weight, rolls back and stops. No class here touches a network or a file, all are deterministic, and ``state()`` is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .balance import Balance
from .checkups import Checkups
from .gradient_watch import GradientWatch
from .watch import DEFAULTS, Health, Thresholds, Verdict


class Monitor:
    """All parts for one run, with one list of lines; it carries requests from who asks to who decides."""

    def __init__(self, thresholds: Thresholds = DEFAULTS) -> None:
        self.lines: list[str] = []
        """All lines of the run, oldest first."""
        self.lora = GradientWatch("LoRA", self.lines, thresholds)
        self.discriminator = GradientWatch("discriminator", self.lines, thresholds)
        self.balance = Balance(self.lines, thresholds)
        self.checkups = Checkups(self.lines, thresholds)
        self._taken = 0

    @property
    def adversarial_scale(self) -> float:
        """Factor on the adversarial weight for the next update of the LoRA: 0 while the discriminator guesses."""
        return self.checkups.weight_scale if self.balance.knows else 0.0

    def after_update(self) -> Verdict:
        """Answer what the gradients and the balance ask for; call after each update of the LoRA or of the warm-up."""
        collapse = "; ".join(filter(None, (self.lora.take_request(), self.discriminator.take_request())))
        lower = self.balance.take_request()
        if collapse:
            return self._forgetting(self.checkups.collapse(collapse))
        return self.checkups.warn(lower) if lower else Verdict("fine")

    def examine(self, step: int, health: Health, last: bool = False) -> Verdict:
        """Judge the state after ``step`` steps, perhaps the ``last`` one; see ``Checkups.examine``."""
        return self._forgetting(self.checkups.examine(step, health, last))

    def take_lines(self) -> list[str]:
        """The lines since the last call, to be logged with the step at hand."""
        new, self._taken = self.lines[self._taken :], len(self.lines)
        return new

    def scalars(self) -> dict[str, float]:
        """Counters and averages of all parts."""
        skipped = {f"discriminator_{name}": value for name, value in self.discriminator.scalars().items()}
        return self.lora.scalars() | skipped | self.balance.scalars() | self.checkups.scalars()

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, and the lines, as JSON."""
        parts = {name: getattr(self, name).state() for name in ("lora", "discriminator", "balance", "checkups")}
        return parts | {"lines": list(self.lines), "taken": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        for name in ("lora", "discriminator", "balance", "checkups"):
            getattr(self, name).restore(state[name])
        # In place: the parts append to this list.
        self.lines[:] = state["lines"]
        self._taken = state["taken"]

    def _forgetting(self, verdict: Verdict) -> Verdict:
        if verdict.kind == "roll back":
            self.lora.forget()
            self.discriminator.forget()
        return verdict
