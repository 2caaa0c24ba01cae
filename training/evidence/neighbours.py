"""What lies beside the sampling that a LoRA is judged at: another sampler, more steps, another strength, other prompts.

A LoRA of stage 2 may be good at one way of sampling and bad beside it. Whoever uses it samples as they are used to, so
that must be seen before it is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.solvers import evaluations
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from ..step_counts import steps_text
from .evaluation_result import Result
from .lora_names import last_config

STRENGTHS = (0.7, 1.3)
# In place of Euler the stock solver that is best on most data; in place of any other the one that stage 2 trains for.
OTHER_SOLVERS = {"euler": "dpmpp_2m"}
# Distances that have grown by this are told. Measured on the tiny base: other noise moves one by up to 1.15 with 8
# pictures and 1.09 with 32; a LoRA of stage 1 has at most 1.23 among its neighbours, one of stage 2 that is locked to
# Euler 2.0 to 3.3 in patch SWD and 1.2 to 2.1 in spectrum (one pair of LoRAs).
MUCH_WORSE = 1.5
LEFT_OUT = (
    "How the last LoRA does with another sampler, twice the steps, other strengths and other prompts was left out, as "
    "that would have taken longer than all the rest. Set neighbours to on, to see it before you share the file."
)
# Prompts beside the pictures' captions: those of the dataset that have no pictures, and none at all.
PRACTICE, EMPTY = "practice prompts", "no prompt"
DISTANCES = {"patch_sliced_wasserstein": "patch SWD", "spectrum_distance": "spectrum"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to sample with a LoRA. ``variation``: in words, what differs from the LoRA's own; empty for that.

    ``prompts``: ``PRACTICE``, ``EMPTY``, or the pictures' captions where that is empty.
    """

    solver: str
    steps: int
    strength: float = 1.0
    prompts: str = ""
    variation: str = ""

    @property
    def evaluations(self) -> int:
        """How often the base is asked for a picture."""
        return evaluations(self.solver, self.steps)


def own_steps(lora: FluxLoRA, counts: Sequence[int]) -> int:
    """That of ``counts`` which the LoRA was trained for, or else the fewest."""
    config = last_config(lora)
    wanted = config.get("target_steps")
    if config.get("target") == "two_samplers" and isinstance(wanted, int):
        wanted = min(wanted, FEW_STEPS)
    return wanted if wanted in counts else min(counts)


def around(solver: str, steps: int, practice: bool = False) -> tuple[Setting, ...]:
    """The neighbours of sampling with ``solver`` in ``steps`` steps at strength 1; ``practice``: such prompts, too."""
    other = OTHER_SOLVERS.get(solver, "euler")
    prompts = (PRACTICE, EMPTY) if practice else (EMPTY,)
    return (
        Setting(solver=other, steps=steps, variation=other),
        Setting(solver=solver, steps=2 * steps, variation="twice the steps"),
        *(Setting(solver=solver, steps=steps, strength=s, variation=f"strength {s:g}") for s in STRENGTHS),
        *(Setting(solver=solver, steps=steps, prompts=each, variation=each) for each in prompts),
    )


def notes_on_neighbours(own: Result, neighbours: Sequence[Result]) -> list[str]:
    """A sentence on those that are much worse than ``own``, with their distances as multiples; none where none is."""
    worse = []
    for result in neighbours:
        # Other prompts draw other things; without any a LoRA need not draw its pictures, and had better not.
        if result.variation in (PRACTICE, EMPTY):
            continue
        grown = {}
        for field, heading in DISTANCES.items():
            before, now = (getattr(each.measurement, field) for each in (own, result))
            # Not finite is worse than any number.
            if not now <= MUCH_WORSE * before:
                grown[heading] = now / before
        if grown:
            told = ", ".join(f"{heading} {times:.1f}x" for heading, times in grown.items())
            worse.append(f"{result.variation} ({told})")
    if not worse:
        return []
    return [
        f"What {own.name} does at {steps_text(own.steps)} with {own.solver} does not carry over to {'; '.join(worse)}. "
        f"Say with the file how it is to be sampled. A distance is told from {MUCH_WORSE:g}x on: other noise moves it "
        "by less than 1.2x."
    ]
