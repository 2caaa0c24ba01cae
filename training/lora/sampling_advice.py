"""How to sample with a LoRA that stage 2 has trained, in words: for the node's output and the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import AdversarialStageConfig

# Up to so many steps the LoRA is trained on one-step estimates, beyond on single steps of a sampler.
FEW_STEPS = 8
# What an ordinary sampler takes, where the LoRA serves two and target_steps is the few-step one's.
ORDINARY_STEPS = 25


def sampling_advice(config: AdversarialStageConfig, few_step_phrase: str = "") -> str:
    """One or two sentences. ``few_step_phrase`` is the dataset's, for ``two_samplers`` without a guidance value."""
    if config.target != "two_samplers":
        return f"Sample with {_steps(config.target_steps)}."
    few = min(config.target_steps, FEW_STEPS)
    if config.few_step_guidance:
        told, otherwise = f"set guidance to {config.few_step_guidance:g}", "use the guidance you are used to"
    else:
        told, otherwise = f"begin the prompt with '{few_step_phrase}, '", "leave that out"
    return f"With {_steps(few)}: {told}. With {ORDINARY_STEPS} steps or so: {otherwise}."


def _steps(count: int) -> str:
    return f"{count} {'step' if count == 1 else 'steps'}"


def advice_of(provenance: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The advice for a LoRA and its trigger phrase, from what it says of its last stage; empty where there is none."""
    last = provenance[-1] if provenance else {}
    if last.get("stage") != "adversarial":
        return "", ""
    said = last.get("config", {})
    wanted = ("target_steps", "target", "few_step_guidance")
    try:
        config = AdversarialStageConfig(**{name: said[name] for name in wanted})
    except (KeyError, TypeError, ValueError):
        # From a file of an older version, or of one that knows other targets. It must be possible to save it again.
        return "", ""
    phrase = str(last.get("few_step_phrase", ""))
    told_by_phrase = config.target == "two_samplers" and not config.few_step_guidance
    if told_by_phrase and not phrase:
        return "", ""
    return sampling_advice(config, phrase), phrase if told_by_phrase else ""
