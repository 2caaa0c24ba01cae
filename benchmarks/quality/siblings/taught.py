"""Stage 2 on the distilled sibling with both models loaded: the base with the LoRA of stage 1 says where to go."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import TINY_BASE
from fluxduel.training.data.batches import Batch
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage, Prediction

from ..styles import arms
from .distilled import SUB_STEPS


class TaughtStage(AdversarialStage):
    """The flow loss holds to the way that the base goes with the start's LoRA, in smaller steps, at its guidance."""

    def __init__(self, start: FluxLoRA, *args: Any, **kwargs: Any) -> None:
        super().__init__(start, *args, **kwargs)
        on_base = dataclasses.replace(start, base=BaseReference(TINY_BASE, "fp32"))
        self.teacher = load_base(on_base.base, "cpu")
        adapter.attach(self.teacher, on_base)

    @torch.no_grad()
    def anchored(self, batch: Batch, prediction: Prediction) -> Tensor:
        sigma = prediction.levels.sigma
        shift = self.base.shift(*prediction.x_t.shape[-2:])
        end = flow.next_sigma(sigma, self.config.target_steps, shift.mu(self.config.target_steps))
        x = prediction.x_t
        for number in range(SUB_STEPS):
            here, there = (sigma + (end - sigma) * k / SUB_STEPS for k in (number, number + 1))
            velocity = self.teacher.velocity(x, here, batch.prompt_embeds, batch.pooled_prompt_embeds, arms.GUIDANCE)
            x = flow.jump(x, velocity, here, there)
        return (prediction.x_t - x) / (sigma - end).view(-1, 1, 1, 1)
