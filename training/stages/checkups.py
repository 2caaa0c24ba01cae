"""The watch over the LoRA itself, by what is measured at each validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .watch import DEFAULTS, Health, Kind, Thresholds, Verdict


class Checkups:
    """Judges the LoRA at each validation against the start of the stage, and remembers which state is the best.

    It alone decides on ``weight_scale``, on going back and on stopping, whoever asks.
    """

    def __init__(self, lines: list[str] | None = None, thresholds: Thresholds = DEFAULTS) -> None:
        """Lines of text are appended to ``lines``."""
        self.thresholds = thresholds
        self.lines: list[str] = [] if lines is None else lines
        self.weight_scale = 1.0
        """Factor on the adversarial weight, in (0, 1]."""
        self.best_step = 0
        """The step after which the state was that is delivered and gone back to; 0 is the start."""
        self.roll_backs = 0
        self.stopped = False
        self._start: Health | None = None
        self._diversity_real: float | None = None
        self._best_score = math.inf
        self._collapses = 0

    def begin(self, start: Health, diversity_real: float | None = None) -> None:
        """Set what later states are compared with, measured before the first update.

        ``diversity_real``: diversity of real pictures in the unit of ``start.diversity``, if known. A fall towards
        theirs is none, where they are less diverse than the start, as line art is than the base's pictures.

        Raises ``ValueError`` for a start that nothing can be compared with.
        """
        bad = start.not_finite()
        for name in ("held_out_loss", "diversity"):
            # Later states are divided by these two.
            if getattr(start, name) is not None and getattr(start, name) <= 0:
                bad.append(name)
        if bad:
            values = ", ".join(f"{name} = {getattr(start, name)}" for name in bad)
            raise ValueError(f"The state before the first update cannot be a reference: {values}.")
        self._start, self._diversity_real = start, diversity_real
        self._best_score = start.score

    def examine(self, step: int, health: Health, last: bool = False) -> Verdict:
        """Judge the state after ``step`` steps, the warm-up's included as everywhere in notes; the ``last`` of all?

        Raises ``RuntimeError`` before ``begin``.
        """
        start = self._reference()
        if bad := health.not_finite():
            seen = ", ".join(f"{name} is {getattr(health, name)} (limit: finite)" for name in bad)
            return self.collapse(seen)
        warnings, collapses = self._compare(start, health)
        if collapses:
            return self.collapse("; ".join(collapses))
        lines = []
        best = False
        if health.score < self._best_score:
            refusal = self._refusal(start, health)
            if not refusal:
                best = True
                of = f"update {self.best_step}" if self.best_step else "the start"
                lines.append(
                    f"Score {health.score:.4g} is below {self._best_score:.4g} of {of} (lower is better). This state "
                    f"is kept{'' if last else ', to be delivered unless a better one follows'}."
                )
                self.best_step, self._best_score = step, health.score
            else:
                lines.append(
                    f"Score {health.score:.4g} is below {self._best_score:.4g}, the best so far, but "
                    f"{refusal}. This state is not kept, since the score may miss what that shows."
                )
        if warnings:
            self._lower()
            lines.append(
                f"{_sentence('; '.join(warnings))} The adversarial weight is lowered to {self.weight_scale:.3g} "
                "of its setting, so that what holds the LoRA counts for more."
            )
        elif self.weight_scale < 1:
            self.weight_scale = min(1.0, self.weight_scale * self.thresholds.recover)
            lines.append(
                f"Flow loss, diversity and high frequencies are within their limits. The adversarial weight is "
                f"raised to {self.weight_scale:.3g} of its setting, since there is room again."
            )
        return self._verdict("best" if best else "warn" if warnings else "fine", *lines)

    def collapse(self, seen: str) -> Verdict:
        """Answer a state that is beyond repair, ``seen`` saying why: ``roll back``, or ``stop`` at the last one."""
        self._collapses += 1
        count, limit = self._collapses, self.thresholds.collapses
        if count >= limit:
            self.stopped = True
            return self._verdict(
                "stop",
                f"{_sentence(seen)} This is collapse {count} (limit {limit}): the stage ends, since half the weight "
                "did not help before.",
            )
        self.roll_backs += 1
        self._lower()
        return self._verdict(
            "roll back",
            f"{_sentence(seen)} This is collapse {count} (the stage ends at {limit}): the LoRA goes back to "
            f"{self._best()}, and the adversarial weight is lowered to {self.weight_scale:.3g} of its setting, since "
            "the same weight would lead here again.",
        )

    def warn(self, seen: str) -> Verdict:
        """Lower the adversarial weight, ``seen`` saying why."""
        self._lower()
        return self._verdict(
            "warn",
            f"{_sentence(seen)} The adversarial weight is lowered to {self.weight_scale:.3g} of its setting.",
        )

    def conclude(self) -> str:
        """The line that says which state is delivered, at the end of the stage. Raises ``RuntimeError`` before
        ``begin``."""
        start = self._reference()
        if self.best_step:
            line = f"The state of update {self.best_step} is delivered: score {self._best_score:.4g}, against "
            line += f"{start.score:.4g} at the start (lower is better)."
        else:
            line = "Stage 2 did not improve on stage 1 by the held-out score (no acceptable state below "
            line += f"{start.score:.4g}); stage 1's weights are delivered."
        self.lines.append(line)
        return line

    def scalars(self) -> dict[str, float]:
        """``weight_scale``, number of roll backs, the best step and, once there is a start, the best score."""
        values = {
            "weight_scale": self.weight_scale,
            "roll_backs": float(self.roll_backs),
            "best_step": float(self.best_step),
        }
        return values if self._start is None else values | {"best_score": self._best_score}

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON."""
        return {
            "weight_scale": self.weight_scale,
            "best_step": self.best_step,
            "roll_backs": self.roll_backs,
            "stopped": self.stopped,
            "start": None if self._start is None else asdict(self._start),
            "diversity_real": self._diversity_real,
            # Infinite before there is a start, which JSON cannot say.
            "best_score": None if self._start is None else self._best_score,
            "collapses": self._collapses,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave; ``begin`` need not be called again."""
        self.weight_scale, self.best_step = state["weight_scale"], state["best_step"]
        self.roll_backs, self.stopped, self._collapses = state["roll_backs"], state["stopped"], state["collapses"]
        self._start = None if state["start"] is None else Health(**state["start"])
        self._diversity_real = state["diversity_real"]
        self._best_score = math.inf if state["best_score"] is None else state["best_score"]

    def _reference(self) -> Health:
        if self._start is None:
            raise RuntimeError("Checkups.begin has not been called: there is no start to compare with.")
        return self._start

    def _compare(self, start: Health, health: Health) -> tuple[list[str], list[str]]:
        """What is beyond the limits of a warning, and of a collapse."""
        limits = self.thresholds
        warnings: list[str] = []
        collapses: list[str] = []

        def judge(seen: str, value: float, warn: float, collapse: float) -> None:
            """Higher is worse."""
            if value > collapse:
                collapses.append(f"{seen} (limit {abs(collapse):.3g})")
            elif value > warn:
                warnings.append(f"{seen} (limit {abs(warn):.3g})")

        if start.held_out_loss is not None and health.held_out_loss is not None:
            ratio = health.held_out_loss / start.held_out_loss
            judge(
                f"held-out flow loss {health.held_out_loss:.4g} is {ratio:.3g} of the start's",
                ratio,
                limits.loss_warn,
                limits.loss_collapse,
            )
        ratio, floor = health.diversity / start.diversity, self._diversity_floor(start)
        lowest = floor * limits.diversity_collapse / limits.diversity_warn
        judge(f"diversity {health.diversity:.4g} is {ratio:.3g} of the start's", -ratio, -floor, -lowest)
        raised = self._raised_by(start)
        judge(
            f"high frequencies are {health.high_frequency:.3g} of real pictures'",
            health.high_frequency,
            limits.sharpness_warn * raised,
            limits.sharpness_collapse * raised,
        )
        return warnings, collapses

    def _diversity_floor(self, start: Health) -> float:
        """Least diversity without a warning, as a ratio to the start's."""
        limits = self.thresholds
        if self._diversity_real is None:
            return limits.diversity_warn
        return min(limits.diversity_warn, limits.diversity_of_real * self._diversity_real / start.diversity)

    def _raised_by(self, start: Health) -> float:
        """Factor on the limits of sharpness for a start that is over-sharp."""
        return max(1.0, start.high_frequency * self.thresholds.sharpness_margin / self.thresholds.sharpness_warn)

    def _refusal(self, start: Health, health: Health) -> str:
        """Why a state that has not collapsed may still not be the best, or an empty text."""
        floor, sharpest = self._diversity_floor(start), self.thresholds.sharpness_accepted * self._raised_by(start)
        if health.diversity / start.diversity < floor:
            return f"diversity is {health.diversity / start.diversity:.3g} of the start's (limit {floor:.3g})"
        if health.high_frequency > sharpest:
            return f"high frequencies are {health.high_frequency:.3g} of real pictures' (limit {sharpest:.3g})"
        return ""

    def _lower(self) -> None:
        self.weight_scale *= self.thresholds.lower

    def _best(self) -> str:
        if not self.best_step:
            return "the start (stage 1's weights)"
        return f"the best state so far, of update {self.best_step} (score {self._best_score:.4g})"

    def _verdict(self, kind: Kind, *lines: str) -> Verdict:
        self.lines.extend(lines)
        return Verdict(kind, lines)


def _sentence(seen: str) -> str:
    return f"{seen[0].upper()}{seen[1:]}."
