"""How a stage is held on its card, decided before anything large is loaded: format, recomputation, streamed share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..base.base_model import CHECKPOINTING, empty_base
from ..base.families.latent_space import space_of
from ..base.footprint import Counted, told, weight_bytes
from ..config import AUTO, AUTOMATIC, DiscriminatorConfig, StageConfig
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from .rehearsal import Demand, rehearse, weights

GIB = 2**30
# The least difference of two streamed shares.
STEP = 0.05


@dataclass(frozen=True)
class Plan:
    """How the frozen base is held and computed with.

    ``precision``: one of ``formats.PRECISIONS``; ``checkpointing``: one of ``base_model.CHECKPOINTING``;
    ``streamed_share``: of the blocks, in [0, 1]. None but the first changes the result.
    """

    precision: str
    checkpointing: str
    streamed_share: float = 0.0

    @property
    def text(self) -> str:
        """Such as ``int8_convrot, every block computed anew, 35% of the blocks streamed``."""
        streamed = f", {self.streamed_share:.0%} of the blocks streamed" if self.streamed_share else ""
        return f"{self.precision}, {_COMPUTED_ANEW[self.checkpointing]}{streamed}"

    def cheaper(self) -> Plan | None:
        """The next one that takes less of the card and gives the same result; ``None`` where there is none."""
        if self.checkpointing != CHECKPOINTING[-1]:
            return replace(self, checkpointing=CHECKPOINTING[CHECKPOINTING.index(self.checkpointing) + 1])
        if self.streamed_share < 1:
            return replace(self, streamed_share=min(1.0, round(self.streamed_share + 0.25, 2)))
        return None


def as_asked(precision: str, config: StageConfig) -> Plan:
    """What the settings say, where nothing is left to a plan."""
    level = CHECKPOINTING[-1] if config.gradient_checkpointing else CHECKPOINTING[0]
    return Plan(precision, level, config.streamed_share)


_COMPUTED_ANEW = {
    "none": "nothing computed anew",
    "feed_forward": "feed-forward parts computed anew",
    "blocks": "every block computed anew",
}


def on_the_cpu(start: FluxLoRA, usable: int) -> str:
    """The number format in the computer's own memory: exact, where weights leave a third of it to the computation."""
    held = empty_base(replace(start.base, precision=AUTOMATIC[0])).transformer
    return AUTOMATIC[0] if weight_bytes(held) <= usable * 2 / 3 else AUTOMATIC[-1]


class NoRoom(ValueError):
    """A stage that does not fit its card. The message says what it needs and the cheapest change that fits."""


class Asked(NamedTuple):
    """What the user has settled, from which a plan is not free to depart.

    ``precisions``: in order of preference; ``checkpointing``: levels, likewise; ``streamed_share``: the least one;
    ``streams``: whether more may be streamed than that.
    """

    precisions: Sequence[str]
    checkpointing: Sequence[str]
    streamed_share: float
    streams: bool


def asked(precision: str, config: StageConfig) -> Asked:
    """Of a base's ``precision`` and a stage's settings. What is left to the plan: all with ``auto``, else the level."""
    automatic = precision == AUTO
    levels = CHECKPOINTING if config.gradient_checkpointing else CHECKPOINTING[:1]
    if config.compile_blocks:
        # Compiled blocks compute all anew where their feed-forward parts are to be.
        levels = tuple(level for level in levels if level != "feed_forward")
    return Asked(
        AUTOMATIC if automatic else (precision,),
        levels[-1:] if config.streamed_share else levels,
        config.streamed_share,
        automatic and config.gradient_checkpointing,
    )


def largest(data: RealLatents) -> tuple[tuple[int, int], int]:
    """Height and width in latent pixels of the largest picture, and tokens of the longest prompt."""
    height, width = max((sample.shape[-2:] for sample in data.samples), key=lambda side: side[0] * side[1])
    prompts = (*data.prompts, *data.practice_prompts, *data.outside_prompts)
    return (height, width), max(prompt.length for prompt in prompts)


def demand_of(start: FluxLoRA, data: RealLatents, config: StageConfig, judge: DiscriminatorConfig | None) -> Demand:
    """What a stage with these inputs asks for, at its largest picture and longest prompt."""
    side, tokens = largest(data)
    # The start that stage 2 is held to lies beside the LoRA, and so do the running average and, outside, no LoRA.
    copies = int(config.ema_decay > 0) + int(judge is not None) + int(bool(judge is not None and data.outside_prompts))
    space = space_of(data.samples[0].shape[0])
    return Demand(side, tokens, config.batch_size, CHECKPOINTING[-1], judge, copies, space.factor)


@dataclass(frozen=True)
class Counting:
    """The bytes of plans for one stage, each counted once. ``examining``: what examinations on another base take beside
    the stage's weights; see ``examined.least_beside``."""

    start: FluxLoRA
    demand: Demand
    examining: int = 0
    _known: dict[tuple[Demand, str, str], Counted] = field(default_factory=dict)

    def of(self, demand: Demand) -> Counting:
        """Of the same LoRA for another demand; what is counted of one is known to both."""
        return replace(self, demand=demand)

    def least(self, plan: Plan) -> int:
        """What weights alone take, which is quick to know."""
        key = self.demand, plan.precision, ""
        if key not in self._known:
            self._known[key] = weights(self.start, plan.precision, self.demand)
        return self._known[key].with_streamed(plan.streamed_share)

    def elsewhere(self, plan: Plan) -> int:
        """What lies in the computer's memory, of a plan that was counted."""
        return self._known[self.demand, plan.precision, ""].elsewhere(plan.streamed_share)

    def peak(self, plan: Plan) -> int:
        """What the stage takes at its fullest."""
        key = self.demand, plan.precision, plan.checkpointing
        if key not in self._known:
            demand = replace(self.demand, checkpointing=plan.checkpointing)
            self._known[key] = rehearse(self.start, plan.precision, demand)
        return max(self._known[key].with_streamed(plan.streamed_share), self.least(plan) + self.examining)

    def fits(self, plan: Plan, usable: int) -> bool:
        return self.least(plan) <= usable and self.peak(plan) <= usable


@dataclass(frozen=True)
class Chosen:
    """A plan that fits, with its ``peak`` in bytes and those that are streamed from ``elsewhere``, and what was tried
    before it: plan, bytes, whether those are whole or only the weights'. ``kept``: in the format of the run's start."""

    plan: Plan
    peak: int
    elsewhere: int
    usable: int
    tried: Sequence[tuple[Plan, int, bool]]
    kept: bool = False

    @property
    def text(self) -> str:
        """In one sentence, and a table of what was looked at."""
        streamed = f", and {told(self.elsewhere)} of the computer's memory" if self.elsewhere else ""
        kept = ", in the format in which the run began" if self.kept else ""
        lines = [
            f"Memory{kept}: {self.plan.text}. At its fullest about {told(self.peak)} of {told(self.usable)} that can "
            f"be used{streamed}."
        ]
        for plan, size, whole in self.tried:
            lines.append(f"  {plan.text}: {'' if whole else 'more than '}{told(size)}, too much")
        return "\n".join(lines)


def choose(counting: Counting, wanted: Asked, usable: int) -> Chosen | None:
    """The first plan that fits ``usable`` bytes, in order of what it costs; ``None`` where none does.

    The first number format that fits as a whole, with as little computed anew as fits; where none does, the last one
    with as small a streamed share as fits.
    """
    tried = []
    for precision in wanted.precisions:
        fullest = Plan(precision, wanted.checkpointing[-1], wanted.streamed_share)
        if not counting.fits(fullest, usable):
            whole = counting.least(fullest) <= usable
            tried.append((fullest, counting.peak(fullest) if whole else counting.least(fullest), whole))
            continue
        for level in wanted.checkpointing:
            plan = replace(fullest, checkpointing=level)
            if counting.fits(plan, usable):
                return Chosen(plan, counting.peak(plan), counting.elsewhere(plan), usable, tried)
            tried.append((plan, counting.peak(plan), True))
    if wanted.streams:
        for number in range(int(wanted.streamed_share / STEP) + 1, round(1 / STEP) + 1):
            plan = replace(fullest, streamed_share=round(number * STEP, 2))
            if counting.fits(plan, usable):
                return Chosen(plan, counting.peak(plan), counting.elsewhere(plan), usable, tried)
    return None


class Room(NamedTuple):
    """Bytes of a card. ``usable``: what can be counted on; ``free``: what only just can be had.

    ``unlimited``: what could be counted on without ``memory_limit_gb``; 0 where that is not set.
    """

    usable: int
    free: int
    unlimited: int = 0


def plan_stage(counting: Counting, config: StageConfig, room: Room, precision: str) -> Chosen:
    """Decide for a stage with these settings. ``precision``: what is asked for, or what an earlier sitting settled on.

    What fits in no other way may take all that is free: a count that is a little high must not stop a run that would
    do. Raises ``NoRoom`` where nothing that is left open fits, ``BaseModelError`` and ``ValueError`` as ``rehearse``.
    """
    wanted, kept = asked(precision, config), precision != counting.start.base.precision
    if kept:
        wanted = wanted._replace(streams=config.gradient_checkpointing)
    found = choose(counting, wanted, room.usable) or choose(counting, wanted, room.free)
    if found is None:
        raise NoRoom(_refusal(counting, wanted, room, kept))
    return replace(found, kept=kept)


class Open(NamedTuple):
    """What a refusal may still propose to change."""

    demand: Demand
    wanted: Asked


# Changes from the cheapest on: words and what they make of it; ``None`` where there is nothing to change.
def _recompute(now: Open) -> tuple[str, Open] | None:
    if now.wanted.checkpointing[-1] == CHECKPOINTING[-1]:
        return None
    return "turn gradient_checkpointing on", now._replace(wanted=now.wanted._replace(checkpointing=CHECKPOINTING))


def _one_by_one(now: Open) -> tuple[str, Open] | None:
    if now.demand.batch_size == 1:
        return None
    words = "set batch_size to 1, and raise gradient_accumulation to make up for it"
    return words, now._replace(demand=replace(now.demand, batch_size=1))


def _stream(now: Open) -> tuple[str, Open] | None:
    recomputed = now.wanted.checkpointing[-1] == CHECKPOINTING[-1]
    if now.wanted.streams or not recomputed:
        return None
    return "raise streamed_share to {share:g}", now._replace(wanted=now.wanted._replace(streams=True))


def _automatic(now: Open) -> tuple[str, Open] | None:
    recomputed = now.wanted.checkpointing[-1] == CHECKPOINTING[-1]
    if set(AUTOMATIC) <= set(now.wanted.precisions) or not recomputed:
        return None
    # Less would be no help: what is smaller than bf16 is what is looked for.
    precisions = [now.wanted.precisions[0], *AUTOMATIC[1:]]
    return f"set precision to {AUTO}", now._replace(wanted=now.wanted._replace(precisions=precisions, streams=True))


def _smaller(side: int) -> Callable[[Open], tuple[str, Open] | None]:
    def smaller(now: Open) -> tuple[str, Open] | None:
        height, width = now.demand.side
        latent = side // now.demand.factor
        if height * width <= latent**2:
            return None
        words = f"encode the pictures at a resolution of {side}"
        return words, now._replace(demand=replace(now.demand, side=(latent, latent)))

    return smaller


CHANGES = (_recompute, _one_by_one, _stream, _automatic, *(_smaller(side) for side in (768, 512, 256, 128, 64)))


def _refusal(counting: Counting, wanted: Asked, room: Room, kept: bool) -> str:
    """What is needed, and the cheapest change, or the fewest together, with which it fits."""
    now, usable = Open(counting.demand, wanted), room.usable
    share = 1.0 if wanted.streams else wanted.streamed_share
    best = Plan(wanted.precisions[-1], wanted.checkpointing[-1], share)
    peak, stage = counting.peak(best), 1 if counting.demand.discriminator is None else 2
    text = f"Stage {stage} does not fit: {best.text} needs about {told(peak)}, and {told(usable)} can be used."
    changes = [change for change in CHANGES if not (kept and change is _automatic)]
    if kept:
        text += (
            f" The run began in {best.precision} and goes on in that. With another seed, or without its folder, a new "
            "one settles on what fits."
        )
    more = math.ceil(peak / GIB * 100) / 100
    fits = [f"raise memory_limit_gb to {more:g}"] if usable < peak <= room.unlimited else []
    for group in [*([change] for change in changes), *(changes[:count] for count in range(2, len(changes) + 1))]:
        words, then = [], now
        for change in group:
            made = change(then)
            if made is not None:
                words.append(made[0])
                then = made[1]
        found = choose(counting.of(then.demand), _fullest(then.wanted), usable) if words else None
        if found is not None:
            fits.append(f"{' and '.join(words)} ({told(found.peak)})".format(share=found.plan.streamed_share))
            break
    if fits:
        return f"{text} What fits: {'; or '.join(fits)}."
    larger = "raise memory_limit_gb" if room.unlimited else "take a larger card"
    return f"{text} Lower the rank, train fewer layers (targets), or {larger}: no other setting makes it fit."


def _fullest(wanted: Asked) -> Asked:
    """With all computed anew that may be: less would only be faster."""
    return wanted._replace(checkpointing=wanted.checkpointing[-1:])
