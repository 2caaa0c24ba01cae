"""At which classifier-free guidance a LoRA is sampled, where nobody has settled one."""

from __future__ import annotations

from collections.abc import Iterable

from ..base import variants
from ..base.errors import BaseModelError
from ..base.families import family_of
from .sampling_advice import FEW_STEPS, advice_of, few_step_trained, of_stage_1, trigger_phrase
from .value import FluxLoRA

# In place of a value: what the LoRA and its base are for.
AS_USUAL = 0.0


def cfg_at(lora: FluxLoRA, steps: int, cfg: float) -> float:
    """``cfg``, or what ``AS_USUAL`` stands for with so many sampling steps.

    That is the base's own, 1 where it needs none; and 1 at the few steps that stage 2 has trained the LoRA for, since
    that judges what one pass gives. Raises ``BaseModelError`` where the base is gone.
    """
    if cfg != AS_USUAL:
        return cfg
    return 1.0 if few_step_trained(lora.provenance, steps) else variants.usual_cfg(lora.base.path)


def guided(lora: FluxLoRA, step_counts: Iterable[int], cfg: float) -> bool:
    """Whether any of these numbers of steps takes a negative prompt, and twice the batch with it."""
    return any(cfg_at(lora, steps, cfg) != 1 for steps in step_counts)


def advice_for(lora: FluxLoRA) -> tuple[str, str]:
    """``advice_of`` the LoRA, with its ``cfg`` for a base without a guidance embedding, and its trigger phrase.

    No advice where the base is gone and was never read.
    """
    try:
        advice, phrase = advice_of(lora.provenance, lora.base.config)
    except BaseModelError:
        return "", trigger_phrase(lora.provenance)
    return advice + (_cfg_words(lora) if advice else ""), phrase


def _cfg_words(lora: FluxLoRA) -> str:
    config, family = lora.base.config, family_of(lora.base.config)
    try:
        variant = variants.variant(lora.base.path)
    except BaseModelError:
        # A LoRA can be saved whose base is gone.
        return ""
    if family.guidance_embeds(config):
        return ""
    few, many = (cfg_at(lora, steps, AS_USUAL) for steps in (FEW_STEPS, FEW_STEPS + 1))
    if few != many:
        return f" With up to {FEW_STEPS} steps set cfg to {few:g}, as trained; with more to {many:g} or so."
    words = f" Set cfg to {many:g}{' or so' if many != 1 else ''}, as for {lora.base.name} alone."
    sibling = family.distilled(variant)
    if of_stage_1(lora.provenance) and sibling:
        steps, cfg = family.usual_steps(sibling), family.usual_cfg(sibling)
        words += f" On {family.name} {sibling}, its distilled sibling: {steps} steps, cfg {cfg:g}."
    return words
