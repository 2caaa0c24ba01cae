"""The watch over stage 2 as it acts: it measures the LoRA, and does to it what the monitor decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..config import AdversarialStageConfig
from ..data.real_latents import drawn
from ..evidence.metrics import HELD_OUT_SIGMAS, MOST_PICTURES
from ..lora import adapter as adapters
from .examined import examined
from .health import Examiner
from .monitor import Monitor
from .stage import Stage
from .watch import Health, Verdict

# Names of the measurements, for the user.
SAMPLES = "samples for the watch"
DRIFT = "flow loss on training pictures"


class StageWatch:
    """Samples with the LoRA of ``stage`` at each validation, keeps its best state, and goes back to it."""

    def __init__(self, stage: Stage, config: AdversarialStageConfig, monitor: Monitor) -> None:
        self._stage, self._watches, self.monitor = stage, config.watch, monitor
        self._distilled = config.target == "distilled"
        self._examiner = Examiner(stage.data, config)
        if self.samples and self._examiner.masked:
            stage.remarks.append(
                f"{self._examiner.masked} pictures have masks: the watch compares samples with them within the masks "
                "alone. What is drawn beyond is not judged, also where a sample has its subject elsewhere."
            )
        self._best: Mapping[str, Tensor] = stage.start.tensors
        # Updates of the LoRA that were due, left-out ones included. Notes count both, as all that shows a run does.
        self._attempted, self._warmup = 0, config.discriminator_warmup
        if self._warmup:
            stage.remarks.append(
                f"Up to update {self._warmup} the discriminator learns alone (discriminator_warmup); update "
                f"{self._warmup + 1} is the LoRA's first."
            )
        self._begun = False
        # Whether a state after the start was measured, and whether memory did not suffice for one or the start.
        self._examined = self._left_out = False
        self._first_losses: tuple[float, float] | None = None

    def after_update(self, update: int, pair_accuracy: float) -> dict[str, float]:
        """Let the monitor see the ``update``-th update of the LoRA, counted from 1, and do as it says."""
        self._attempted = update
        self.monitor.balance.update(pair_accuracy)
        if not self._watches:
            return {}
        self._obey(self.monitor.after_update())
        return self.monitor.scalars()

    def examine(self, values: Mapping[str, float], after_step: Callable[[], None]) -> dict[str, float]:
        """Sample with the weights that would be delivered, let the monitor judge, and do as it says.

        ``values``: what is measured already; what is measured here is returned, with the best step and score by now.
        Nothing in the warm-up, where the LoRA is still what it was; nor after a start that could not be measured, since
        there is nothing to compare with.
        """
        stage = self._stage
        if not self.samples or self._begun != bool(self._attempted):
            return {}
        with stage.delivered_weights():
            drift = self._flow_drift(values, after_step)

        def examine() -> Health:
            with examined(stage) as base:
                return self._examiner.examine(base, drift, after_step)

        health = stage.measurements.take(SAMPLES, examine, "turn watch off, which samples with the LoRA")
        if health is None:
            self._left_out = True
            return {}
        health = stage.ranks.from_first(health)
        if not self._begun:
            self.monitor.checkups.begin(health, self._examiner.diversity_real)
            self._begun = True
        else:
            self._examined = True
            last = self._warmup + self._attempted == stage.last_step
            self._obey(self.monitor.examine(self._warmup + self._attempted, health, last))
        measured = {"score": health.score, "high_frequency": health.high_frequency, "diversity": health.diversity}
        told = self.monitor.checkups.scalars()
        return measured | {name: told[name] for name in ("best_step", "best_score")}

    @property
    def samples(self) -> bool:
        """Whether the LoRA is sampled with."""
        return self._watches and self._examiner.possible

    def evaluations(self) -> dict[str, int]:
        """By measurement, how many pictures the base is evaluated for at each validation."""
        if not self.samples:
            return {}
        drifts = self._stage.data.held_out and not self._distilled
        seen = {DRIFT: len(HELD_OUT_SIGMAS) * len(self._seen())} if drifts else {}
        return seen | {SAMPLES: self._examiner.evaluations}

    def conclude(self) -> None:
        """Put the best state in place, and say which it is; the last one, where none could be measured."""
        if self._delivers_best:
            self.monitor.checkups.conclude()
            self._return_to_best()
        elif self._left_out:
            missing = "No state after the start could" if self._begun else "The start could not"
            self.monitor.lines.append(
                f"{missing} be sampled with, for want of memory, so there is nothing to compare: the last state is "
                "delivered, as without watch."
            )

    def delivered_step(self, last: int) -> int:
        """The step whose state is in place at the end, step ``last``: the best one's, where it went back to that."""
        checkups = self.monitor.checkups
        return checkups.best_step if self._delivers_best or checkups.stopped else last

    @property
    def _delivers_best(self) -> bool:
        return self._begun and (self._examined or not self._left_out or self.monitor.checkups.stopped)

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """All that later decisions depend on: part -> name -> tensor on the CPU, and numbers as JSON."""
        tensors = {} if self._best is self._stage.start.tensors else {"best": dict(self._best)}
        return tensors, {
            "monitor": self.monitor.state(),
            "first_scores": self._examiner.first_scores,
            "first_losses": self._first_losses,
            "begun": self._begun,
            "examined": self._examined,
            "left_out": self._left_out,
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
        self._examined, self._left_out = numbers["examined"], numbers["left_out"]

    def _flow_drift(self, values: Mapping[str, float], after_step: Callable[[], None]) -> float | None:
        """The held-out flow loss as far as the adversarial loss may be to blame for it.

        Where the flow loss on training pictures has risen by less, or has even fallen, the LoRA overfits, for which a
        lower adversarial weight is no cure: then the rise on training pictures counts. What a distilled base makes of
        a noised picture is no flow, and says nothing of how it draws.
        """
        if "held_out_loss" not in values or self._distilled:
            return None
        loss = self._stage.flow_loss(DRIFT, replace(self._stage.data, held_out=self._seen()), after_step)
        if loss is None:
            return None
        losses = (values["held_out_loss"], loss)
        self._first_losses = self._first_losses or losses
        return self._first_losses[0] * min(now / first for now, first in zip(losses, self._first_losses, strict=True))

    def _seen(self) -> tuple[int, ...]:
        """The training pictures whose flow loss is compared with that of the held-out ones: as many."""
        data = self._stage.data
        return drawn(data.training, min(len(data.held_out), MOST_PICTURES), "watch/training")

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
