"""What the watch over stage 2 measures, where it responds, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

Kind = Literal["best", "fine", "warn", "roll back", "stop"]


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
    # As a ratio to real pictures', where that asks less. Measured: 0.72 of line art, by 16 samples, where those of
    # unseen subjects are as diverse as their true pictures by another measure.
    diversity_of_real: float = 0.7
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
