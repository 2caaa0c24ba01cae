"""Stage 1: domain adaptation with the flow-matching loss."""

from __future__ import annotations

from pathlib import Path

import torch

from . import flow
from .config import DiffusionStageConfig
from .fingerprints import fingerprint
from .lora import FluxLoRA
from .ranks import ALONE, Ranks
from .real_latents import RealLatents
from .stage import Reporter, Stage, StageResult, check_finite, sigma_statistics
from .stage_loop import settings_of, train


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
    ) -> None:
        super().__init__(start, data, config, device=device, betas=(0.9, 0.999), ranks=ranks)

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


def train_diffusion_stage(
    lora: FluxLoRA,
    data: RealLatents,
    config: DiffusionStageConfig,
    *,
    device: torch.device | str,
    reporter: Reporter,
    run_folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> StageResult:
    """Train ``lora`` on ``data`` with the flow-matching loss; neither is changed.

    With a ``run_folder`` (see ``run_directory``) an unfinished run goes on from its last checkpoint, one with fewer
    steps is extended, and a finished one gives its result at once.

    Raises ``BaseModelError``, ``DataError``, ``RunDirectoryError`` or ``OSError`` before the first step,
    ``StageFailure`` (with the last good weights) after it.
    """
    return train(
        lambda: DiffusionStage(lora, data, config, device=device, ranks=ranks),
        fingerprint("diffusion", lora, data, config, ranks=ranks.count),
        lora,
        reporter,
        run_folder,
        settings_of(lora, diffusion=config),
        ranks,
    )
