"""At which classifier-free guidance a LoRA is sampled, where nobody has settled one."""

from __future__ import annotations

from collections.abc import Iterable

from ..base import variants
from .sampling_advice import few_step_trained
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
