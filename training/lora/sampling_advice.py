"""How to sample with a trained LoRA, in words: for the nodes' messages, the file's metadata and ``inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.families import family_of
from ..config import AdversarialStageConfig

# Up to so many steps the LoRA is trained on one-step estimates, beyond on single steps of a sampler.
FEW_STEPS = 8
# What an ordinary sampler takes, where the LoRA serves two and target_steps is the few-step one's.
ORDINARY_STEPS = 25
# What FLUX.1-dev is sampled at, where a LoRA was not trained for another value.
USUAL_GUIDANCE = 3.5
# Stage 2 trains steps as Euler takes them, between the levels of the family's schedule; by ComfyUI's name.
TRAINED_SAMPLER = "euler"

# Larger pictures are sampled nowhere.
LARGEST_SIDE = 4096

# What a stage says of itself that delivered the LoRA it started from.
UNCHANGED = {"delivered": "start"}

STAGE_1_ADVICE = (
    "Sample as with the base alone: any sampler, scheduler, number of steps and guidance. Strength 1.0 is what was "
    "trained."
)


def sampling_advice(
    config: AdversarialStageConfig, transformer: Mapping[str, Any], few_step_phrase: str = ""
) -> str:
    """A few sentences. ``transformer``: diffusers' configuration of the base. ``few_step_phrase`` is the dataset's, for
    ``two_samplers`` without a guidance value."""
    family = family_of(transformer)
    settings = f"sampler {TRAINED_SAMPLER}, scheduler {family.scheduler}, strength 1.0"
    if config.target != "two_samplers":
        use, also = f"Sample with {_steps(config.target_steps)}, {settings}", ", numbers of steps"
    else:
        few = min(config.target_steps, FEW_STEPS)
        if config.few_step_guidance:
            told, otherwise = f"set guidance to {config.few_step_guidance:g}", "use the guidance you are used to"
        else:
            told, otherwise = f"begin the prompt with '{few_step_phrase}, '", "leave that out"
        use = f"With {_steps(few)}: {told}. With {ORDINARY_STEPS} steps or so: {otherwise}. Both: {settings}"
        also = ""
    guidance = ""
    if family.guidance_embeds(transformer):
        too = ", and is for that" if _guided(config) else ""
        guidance = f" It was trained at guidance {config.guidance:g}{too}."
    return (
        f"{use}.{guidance} Other samplers, schedulers{also} and strengths are not what it was trained for. "
        f"{family.schedule_advice}"
    )


def _guided(config: AdversarialStageConfig) -> bool:
    """Whether the discriminator has seen what this guidance makes of a prompt, held to the start's own answers."""
    return config.anchor == "start" and config.guidance != AdversarialStageConfig().guidance


def _steps(count: int) -> str:
    return f"{count} {'step' if count == 1 else 'steps'}"


def sampled_guidance(trained: float) -> float:
    """The guidance that a LoRA trained at ``trained`` is sampled at: training at 1 keeps what a user is used to."""
    return USUAL_GUIDANCE if trained == 1 else trained


def advice_of(provenance: Sequence[Mapping[str, Any]], transformer: Mapping[str, Any]) -> tuple[str, str]:
    """The advice for a LoRA and its trigger phrase, from what it says of its stages; empty where there is none.

    ``transformer``: diffusers' configuration of the base.
    """
    resolution = trained_resolution(provenance)
    size = f" It was trained at a resolution of {resolution}." if resolution else ""
    more = size + _early_ends(_effective(provenance))
    if of_stage_1(provenance):
        return STAGE_1_ADVICE + more, ""
    config, phrase = _last_stage_2(provenance), trigger_phrase(provenance)
    if config is None or (_told_by_phrase(config) and not phrase):
        return "", ""
    return sampling_advice(config, transformer, phrase) + more, phrase


def trained_resolution(provenance: Sequence[Mapping[str, Any]]) -> int:
    """The side of the square, in pixels, whose area the pictures of the last stage had; 0 where no stage says it."""
    # Read back from a file, they may be anything.
    said = [entry.get("resolution") for entry in _effective(provenance)]
    return next((side for side in reversed(said) if type(side) is int and 16 <= side <= LARGEST_SIDE), 0)


def of_stage_1(provenance: Sequence[Mapping[str, Any]]) -> bool:
    """Whether stage 1 alone has trained the LoRA."""
    stages = _effective(provenance)
    return bool(stages) and all(entry.get("stage") == "diffusion" for entry in stages)


def trigger_phrase(provenance: Sequence[Mapping[str, Any]]) -> str:
    """What begins a prompt that the few-step sampler of two is told by; empty where there is none."""
    config = _last_stage_2(provenance)
    told = config is not None and _told_by_phrase(config)
    return str(_effective(provenance)[-1].get("few_step_phrase", "")) if told else ""


def _told_by_phrase(config: AdversarialStageConfig) -> bool:
    return config.target == "two_samplers" and not config.few_step_guidance


def _early_ends(provenance: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for each stage that the user had end early."""
    words = ""
    for entry in provenance:
        done, config = entry.get("finished_early"), entry.get("config")
        if isinstance(done, int) and isinstance(config, Mapping):
            number = {"diffusion": 1, "adversarial": 2}.get(str(entry.get("stage")), "?")
            warmup = config.get("discriminator_warmup", 0)
            planned = config["steps"] + warmup if "steps" in config else "?"
            words += f" Stage {number} was finished early, after update {done + warmup} of {planned}."
    return words


def departures(
    provenance: Sequence[Mapping[str, Any]],
    *,
    sampler: str = TRAINED_SAMPLER,
    step_counts: Sequence[int] = (),
    strength: float = 1.0,
    cfg: float = 1.0,
) -> list[str]:
    """In what sampling so departs from what stage 2 has trained the LoRA for, in sentences; none for other LoRAs.

    ``step_counts``: all that are sampled with, of which one is enough. ``cfg``: at few steps.
    """
    config = _last_stage_2(provenance)
    if config is None:
        return []
    said = []
    if sampler != TRAINED_SAMPLER:
        said.append(f"This LoRA was trained for sampler {TRAINED_SAMPLER}; {sampler} may spoil it.")
    if step_counts and not any(_trained_for(config, count) for count in step_counts):
        counts = ", ".join(map(str, step_counts))
        said.append(f"This LoRA was trained for {_steps(config.target_steps)}; {counts} may spoil it.")
    if cfg != 1 and any(few_step_trained(provenance, count) for count in step_counts):
        said.append(f"This LoRA was trained for cfg 1 at few steps; {cfg:g} may spoil it.")
    if strength not in (0.0, 1.0):
        said.append(f"This LoRA was trained at strength 1.0; {strength:g} may spoil it.")
    return said


def few_step_trained(provenance: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Whether sampling with so many steps is that of few which stage 2 has trained the LoRA for."""
    config = _last_stage_2(provenance)
    few = config is not None and (config.target == "two_samplers" or config.target_steps <= FEW_STEPS)
    return few and steps <= FEW_STEPS


def _trained_for(config: AdversarialStageConfig, count: int) -> bool:
    if config.target == "two_samplers":
        return True
    return count == config.target_steps or (count > FEW_STEPS and config.target_steps > FEW_STEPS)


def _effective(provenance: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The stages that the LoRA's weights are of: one that delivered its start has left no trace in them."""
    return [entry for entry in provenance if not UNCHANGED.items() <= entry.items()]


def _last_stage_2(provenance: Sequence[Mapping[str, Any]]) -> AdversarialStageConfig | None:
    """What is known of the settings of the last stage, where that is stage 2."""
    last = (_effective(provenance) or [{}])[-1]
    if last.get("stage") != "adversarial":
        return None
    try:
        said = dict(last["config"])
        known = {name: said[name] for name in ("target_steps", "target", "few_step_guidance")}
        since = {name: said[name] for name in ("guidance", "anchor") if name in said}
        return AdversarialStageConfig(**known, **since)
    except (KeyError, TypeError, ValueError):
        # From a file of an older version, or of one that knows other targets. It must be possible to save it again.
        return None
