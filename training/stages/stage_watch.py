"""The watch over stage 2 as it acts: it measures the LoRA, and does to it what the monitor decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..config import AdversarialStageConfig
from ..data.real_latents import drawn
from ..evidence import metrics
from ..lora import adapter as adapters
from .health import Examiner
from .monitor import Monitor
from .stage import Stage
from .watch import Verdict


class StageWatch:
    """Samples with the LoRA of ``stage`` at each validation, keeps its best state, and goes back to it."""

    def __init__(self, stage: Stage, config: AdversarialStageConfig, monitor: Monitor) -> None:
        self._stage, self._watches, self.monitor = stage, config.watch, monitor
        self._examiner = Examiner(stage.data, config)
        self._best: Mapping[str, Tensor] = stage.start.tensors
        # Updates of the LoRA that were due, left-out ones included: the number that notes give.
        self._attempted = 0
        self._begun = False
        self._first_losses: tuple[float, float] | None = None

    def after_update(self, update: int, pair_accuracy: float) -> dict[str, float]:
        """Let the monitor see the ``update``-th update of the LoRA, counted from 1, and do as it says."""
        self._attempted = update
        self.monitor.balance.update(pair_accuracy)
        if not self._watches:
            return {}
        self._obey(self.monitor.after_update(update))
        return self.monitor.scalars()

    def examine(self, values: Mapping[str, float], after_step: Callable[[], None]) -> dict[str, float]:
        """Sample with the weights that would be delivered, let the monitor judge, and do as it says.

        ``values``: what is measured already; what is measured here is returned. Nothing in the warm-up, where the LoRA
        is still what it was.
        """
        stage = self._stage
        if not (self._watches and self._examiner.possible) or (self._begun and not self._attempted):
            return {}
        with stage.delivered_weights():
            health = self._examiner.examine(stage.base, self._flow_drift(values, after_step), after_step)
        health = stage.ranks.from_first(health)
        if not self._begun:
            self.monitor.checkups.begin(health, self._examiner.diversity_real)
            self._begun = True
        else:
            self._obey(self.monitor.examine(self._attempted, health))
        return {"score": health.score, "high_frequency": health.high_frequency, "diversity": health.diversity}

    def conclude(self) -> None:
        """Put the best state in place, and say which it is."""
        if self._begun:
            self.monitor.checkups.conclude()
            self._return_to_best()

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """All that later decisions depend on: part -> name -> tensor on the CPU, and numbers as JSON."""
        tensors = {} if self._best is self._stage.start.tensors else {"best": dict(self._best)}
        return tensors, {
            "monitor": self.monitor.state(),
            "first_scores": self._examiner.first_scores,
            "first_losses": self._first_losses,
            "begun": self._begun,
            "attempted": self._attempted,
        }

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        self._best = tensors.get("best", self._stage.start.tensors)
        self.monitor.restore(numbers["monitor"])
        self._examiner.first_scores = list(numbers["first_scores"])
        first = numbers["first_losses"]
        self._first_losses = None if first is None else (first[0], first[1])
        self._begun, self._attempted = numbers["begun"], numbers["attempted"]

    def _flow_drift(self, values: Mapping[str, float], after_step: Callable[[], None]) -> float | None:
        """The held-out flow loss as far as the adversarial loss may be to blame for it.

        Where the flow loss on training pictures has risen by less, or has even fallen, the LoRA overfits, for which a
        lower adversarial weight is no cure: then the rise on training pictures counts.
        """
        if "held_out_loss" not in values:
            return None
        stage = self._stage
        seen = drawn(stage.data.training, min(len(stage.data.held_out), metrics.MOST_PICTURES), "watch/training")
        losses = (
            values["held_out_loss"],
            stage.ranks.agreed(
                metrics.held_out_flow_loss(
                    stage.base,
                    replace(stage.data, held_out=seen),
                    stage.config.guidance,
                    batch_size=stage.config.batch_size,
                    after_step=after_step,
                )
            ),
        )
        self._first_losses = self._first_losses or losses
        return self._first_losses[0] * min(now / first for now, first in zip(losses, self._first_losses, strict=True))

    def _obey(self, verdict: Verdict) -> None:
        """Keep, restore or end, as the monitor decided."""
        if verdict.kind == "best":
            self._best = self._stage.delivered()
        elif verdict.kind in ("roll back", "stop"):
            self._return_to_best()

    def _return_to_best(self) -> None:
        """Put back the best state so far, which is the start where none was better."""
        adapters.restore(self._stage.base, self._best)
        self._stage.optimiser.forget()
        if self._stage.average is not None:
            self._stage.average.restart()
