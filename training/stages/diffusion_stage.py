"""Stage 1: domain adaptation with the flow-matching loss."""

from __future__ import annotations

import torch

from .. import flow
from ..base.base_model import BaseLoader, BaseReference
from ..config import DiffusionStageConfig
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from .plan import Plan
from .ranks import ALONE, Ranks
from .stage import Stage, check_finite, sigma_statistics


class DiffusionStage(Stage):
    """Rectified-flow training of the LoRA (arXiv:2403.03206, section 3.1)."""

    name = "diffusion"

    def __init__(
        self,
        start: FluxLoRA,
        data: RealLatents,
        config: DiffusionStageConfig,
        *,
        device: torch.device | str,
        ranks: Ranks = ALONE,
        load: BaseLoader | None = None,
        plan: Plan | None = None,
        sampling_base: BaseReference | None = None,
    ) -> None:
        super().__init__(
            start,
            data,
            config,
            device=device,
            betas=(0.9, 0.999),
            ranks=ranks,
            load=load,
            plan=plan,
            sampling_base=sampling_base,
        )

    def step(self, step: int) -> dict[str, float]:
        """Draw noise and level, predict the velocity, regress it on ``noise - x0``, update the LoRA."""
        batches = self.micro_batches(step)
        losses, sigmas = [], []
        for batch in batches:
            noise, sigma = self.noise_and_sigma(batch, step)
            x_t = flow.interpolate(batch.x0, noise, sigma)
            velocity = self.velocity(x_t, sigma, batch)
            loss = flow.flow_loss(velocity, batch.x0, noise, batch.mask).mean()
            (loss / len(batches)).backward()
            losses.append(loss.detach())
            sigmas.append(sigma)
        means = check_finite(batches, {"diffusion_loss": losses}, self.ranks)
        learning_rate = self.optimiser.learning_rate
        grad_norm = self.update_lora()
        return {
            **means,
            **sigma_statistics(sigmas, self.ranks),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "images_seen": float((step + 1) * self.images_per_update),
        }
