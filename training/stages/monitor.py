"""Watches stage 2 and decides what to do where it goes wrong: numbers in, decisions and lines of text out.

``GradientWatch`` judges each gradient's norm, ``Balance`` the discriminator's accuracy, ``Checkups`` what is measured
at each validation. ``Monitor`` passes requests of the first two to the third, which alone lowers the adversarial
weight, rolls back and stops. No class here touches a network or a file, all are deterministic, and ``state()`` is JSON.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Kind = Literal["best", "fine", "warn", "roll back", "stop"]

# 1.4826 x the median absolute deviation estimates a normal's standard deviation.
MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where each response begins. Ratios, shares and numbers of updates; every "above" and "below" is strict."""

    # A gradient's norm, in deviations of its logarithm above the median. Norms are near lognormal with a heavy tail;
    # at 10 a false alarm is rarer than one in a million, while a broken sample is usually far above.
    outlier: float = 10.0
    # Applied updates that the median is taken over: long enough for a stable deviation, short enough to follow a
    # change of regime (a ramp, a halved weight).
    gradient_memory: int = 200
    # Below this number of applied updates a deviation estimate is too uncertain, and clipping is the only guard.
    gradient_minimum: int = 20
    # Least deviation of the logarithm that is assumed: norms that hardly vary are not worth skipping at 1.1 times their
    # median. With ``outlier`` 10 nothing below e = 2.7 medians is ever skipped.
    least_deviation: float = 0.1
    # More skips than this among ``skip_window`` updates are no accident of single samples: the weights are in a bad
    # place.
    skips: int = 5
    skip_window: int = 50
    # Gradients in a row that are not finite. After three the weights themselves are the likely cause.
    non_finite: int = 3

    # Decay of the average pair accuracy that sets the number of discriminator updates: about 100 updates.
    average_decay: float = 0.98
    # Decay of the average that decides whether the discriminator knows anything. Slower, since with one pair an update
    # the faster one strays by 0.05 from its mean, which is all that lies between blind and healthy.
    long_average_decay: float = 0.99
    # Updates before the average is used.
    average_minimum: int = 20
    # Relativistic losses sit at 0.55 to 0.75 while the LoRA improves (measured); below that the discriminator lags.
    weak: float = 0.55
    # Above this the LoRA gets nearly the same gradient whatever it does, and more discriminator updates only add to it.
    strong: float = 0.95
    # An average within 0.02 of guessing, for ``blind_updates``: its gradient is noise. A balance by gradient ratio
    # would scale that noise up to the flow loss's size (measured: weight x 200, high frequencies x 2.5).
    blind: float = 0.52
    blind_updates: int = 100
    # Average at which a blind discriminator counts as seeing again; above ``blind`` so that the pause does not flicker.
    sees_again: float = 0.55
    # The discriminator has won, although it is not updated above ``strong``: the LoRA cannot follow at this weight.
    won: float = 0.98
    won_updates: int = 200

    # Share of the real-to-fake gap of verdicts that training pictures have and held-out pictures lack, at this number
    # of checks in a row. One check on a few held-out pictures is noisy.
    overfit: float = 0.8
    overfit_checks: int = 3

    # Held-out flow loss as a ratio to the start's. Measured: good runs stay within 1.03, bad ones reach 1.10 and more.
    loss_warn: float = 1.05
    loss_collapse: float = 1.10
    # Diversity as a ratio to the start's. Only a fall is bad: a start that is blurred at few steps is also less diverse
    # than real pictures, and stage 2 mends that.
    diversity_warn: float = 0.8
    diversity_collapse: float = 0.7
    # Energy in high frequencies as a ratio to real pictures'. The target is 1; above 1.3 pictures look over-sharp.
    sharpness_warn: float = 1.3
    # A state up to here may still be the best if its score is: the best measured states of the jump target are at 1.36
    # to 1.44, all bad ones at 1.6 and above.
    sharpness_accepted: float = 1.45
    sharpness_collapse: float = 1.5
    # A start that is itself over-sharp moves the three limits up, to leave it this margin below the first.
    sharpness_margin: float = 1.15

    # What the adversarial weight is multiplied by at each warning, and at each healthy check until it is whole again.
    lower: float = 0.5
    recover: float = 1.1
    # The run ends at this collapse: the earlier ones were each answered with half the weight, to no avail.
    collapses: int = 3


DEFAULTS = Thresholds()


@dataclass(frozen=True, kw_only=True)
class Health:
    """What is measured at a validation, with the weights that would be delivered.

    All samples of a run come from the same sampler, noise and captions, so that two states differ by the LoRA alone.
    """

    held_out_loss: float | None
    """Flow loss on held-out pictures, above 0. None: no picture is held out, and the loss is not judged."""
    diversity: float
    """Mean distance between the samples, above 0, in any unit as long as it is always the same."""
    high_frequency: float
    """Energy of the samples in high frequencies as a ratio to that of real pictures, from 0."""
    score: float
    """Distance of the samples to held-out real pictures; lower is better, and it may be negative."""

    def not_finite(self) -> list[str]:
        """Names of the measurements that are NaN or infinite."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return [name for name, value in values.items() if value is not None and not math.isfinite(value)]


@dataclass(frozen=True)
class Verdict:
    """What the caller is to do.

    ``best``: keep a copy of the weights; ``fine`` and ``warn``: nothing (a warning has already lowered
    ``weight_scale``); ``roll back``: restore the kept copy, or the start where there is none; ``stop``: end the stage
    and deliver that copy. A state can be the best and be warned of; its kind is then ``best``.
    """

    kind: Kind
    lines: tuple[str, ...] = ()


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
            f"Update {self.updates} of the {self.network}: {seen}. It is skipped, so that one bad sample does not "
            "undo many good updates."
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
        self.lines.append(f"After {self.updates} updates, warm-up included, pair accuracy averages {seen}.")


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
        self.best_update = 0
        """The update whose state is delivered and gone back to; 0 is the start."""
        self.roll_backs = 0
        self.stopped = False
        self._start: Health | None = None
        self._diversity_real: float | None = None
        self._best_score = math.inf
        self._collapses = 0

    def begin(self, start: Health, diversity_real: float | None = None) -> None:
        """Set what later states are compared with, measured before the first update.

        ``diversity_real``: diversity of real pictures in the unit of ``start.diversity``, if known. A state at least as
        diverse as they are has not collapsed, however diverse the start was. Raises ``ValueError`` for a start that
        nothing can be compared with.
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

    def examine(self, update: int, health: Health) -> Verdict:
        """Judge the state after ``update`` updates of the LoRA. Raises ``RuntimeError`` before ``begin``."""
        start = self._reference()
        if bad := health.not_finite():
            seen = ", ".join(f"{name} is {getattr(health, name)} (limit: finite)" for name in bad)
            return self.collapse(update, seen)
        warnings, collapses = self._compare(start, health)
        if collapses:
            return self.collapse(update, "; ".join(collapses))
        lines = []
        best = False
        if health.score < self._best_score:
            refusal = self._refusal(start, health)
            if not refusal:
                best = True
                of = f"update {self.best_update}" if self.best_update else "the start"
                lines.append(
                    f"Update {update}: score {health.score:.4g} is below {self._best_score:.4g} of {of} (lower is "
                    "better). This state is kept, to be delivered unless a better one follows."
                )
                self.best_update, self._best_score = update, health.score
            else:
                lines.append(
                    f"Update {update}: score {health.score:.4g} is below {self._best_score:.4g}, the best so far, but "
                    f"{refusal}. This state is not kept, since the score may miss what that shows."
                )
        if warnings:
            self._lower()
            lines.append(
                f"Update {update}: {'; '.join(warnings)}. The adversarial weight is lowered to {self.weight_scale:.3g} "
                "of its setting, so that the LoRA moves less and the flow loss holds it better."
            )
        elif self.weight_scale < 1:
            self.weight_scale = min(1.0, self.weight_scale * self.thresholds.recover)
            lines.append(
                f"Update {update}: loss, diversity and sharpness are within their limits. The adversarial weight is "
                f"raised to {self.weight_scale:.3g} of its setting, since there is room again."
            )
        return self._verdict("best" if best else "warn" if warnings else "fine", *lines)

    def collapse(self, update: int, seen: str) -> Verdict:
        """Answer a state that is beyond repair, ``seen`` saying why: ``roll back``, or ``stop`` at the last one."""
        self._collapses += 1
        count, limit = self._collapses, self.thresholds.collapses
        if count >= limit:
            self.stopped = True
            return self._verdict(
                "stop",
                f"Update {update}: {seen}. This is collapse {count} (limit {limit}): the stage ends, since half the "
                f"weight did not help before, and {self._best()} is delivered.",
            )
        self.roll_backs += 1
        self._lower()
        return self._verdict(
            "roll back",
            f"Update {update}: {seen}. This is collapse {count} (the stage ends at {limit}): the LoRA goes back to "
            f"{self._best()}, and the adversarial weight is lowered to {self.weight_scale:.3g} of its setting, since "
            "the same weight would lead here again.",
        )

    def warn(self, update: int, seen: str) -> Verdict:
        """Lower the adversarial weight, ``seen`` saying why."""
        self._lower()
        return self._verdict(
            "warn",
            f"Update {update}: {seen}. The adversarial weight is lowered to {self.weight_scale:.3g} of its setting.",
        )

    def conclude(self) -> str:
        """The line that says which state is delivered, at the end of the stage. Raises ``RuntimeError`` before
        ``begin``."""
        start = self._reference()
        if self.best_update:
            line = f"The state of update {self.best_update} is delivered: score {self._best_score:.4g}, against "
            line += f"{start.score:.4g} at the start (lower is better)."
        else:
            line = "Stage 2 did not improve on stage 1 by the held-out score (no acceptable state below "
            line += f"{start.score:.4g}); stage 1's weights are delivered."
        self.lines.append(line)
        return line

    def scalars(self) -> dict[str, float]:
        """``weight_scale``, number of roll backs, the best update and, once there is a start, the best score."""
        values = {
            "weight_scale": self.weight_scale,
            "roll_backs": float(self.roll_backs),
            "best_update": float(self.best_update),
        }
        return values if self._start is None else values | {"best_score": self._best_score}

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON."""
        return {
            "weight_scale": self.weight_scale,
            "best_update": self.best_update,
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
        self.weight_scale, self.best_update = state["weight_scale"], state["best_update"]
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
        if self._diversity_real is None:
            return self.thresholds.diversity_warn
        return min(self.thresholds.diversity_warn, self._diversity_real / start.diversity)

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
        if not self.best_update:
            return "the start (stage 1's weights)"
        return f"the best state so far, of update {self.best_update} (score {self._best_score:.4g})"

    def _verdict(self, kind: Kind, *lines: str) -> Verdict:
        self.lines.extend(lines)
        return Verdict(kind, lines)


class Monitor:
    """The parts above for one run, with one list of lines; it carries requests from who asks to who decides."""

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

    def after_update(self, update: int) -> Verdict:
        """Answer what the gradients and the balance ask for; call after each update of the LoRA or of the warm-up."""
        collapse = "; ".join(filter(None, (self.lora.take_request(), self.discriminator.take_request())))
        lower = self.balance.take_request()
        if collapse:
            return self._forgetting(self.checkups.collapse(update, collapse))
        return self.checkups.warn(update, lower) if lower else Verdict("fine")

    def examine(self, update: int, health: Health) -> Verdict:
        """Judge the state after ``update`` updates of the LoRA; see ``Checkups.examine``."""
        return self._forgetting(self.checkups.examine(update, health))

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
