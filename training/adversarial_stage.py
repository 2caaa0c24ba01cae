"""Stage 2: the LoRA against a discriminator on latents, updated in turn by two optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..discriminator import losses as gan
from ..discriminator import networks
from . import draws, flow
from .config import AdversarialStageConfig, DiscriminatorConfig
from .lora import FluxLoRA
from .optimiser import Optimiser
from .real_latents import Batch, RealLatents
from .schedules import annealed
from .stage import Reporter, Stage, StageResult, check_finite, run, sigma_statistics


class Prediction(NamedTuple):
    """What the generator made of a batch: its one-step estimate of the data, and what led to it."""

    x0_hat: Tensor
    velocity: Tensor
    noise: Tensor
    sigma: Tensor


class AdversarialStage(Stage):
    """Alternate discriminator and generator, on latents.

    The generator is the LoRA's one-step estimate ``x0_hat = x_t - sigma v``; real are the encoded training images. Both
    are renoised to one drawn level before they are judged (LADD, arXiv:2403.12015, section 3), or shown clean.
    """

    name = "adversarial"
    config: AdversarialStageConfig

    def __init__(
        self,
        start: FluxLoRA,
        data: RealLatents,
        discriminator: DiscriminatorConfig,
        config: AdversarialStageConfig,
        *,
        device: torch.device | str,
    ) -> None:
        super().__init__(start, data, config, device=device, betas=(config.beta1, config.beta2))
        self.judge = discriminator
        self.discriminator = networks.build(
            discriminator.architecture,
            width=discriminator.width,
            depth=discriminator.depth,
            spectral_norm=discriminator.spectral_norm,
            seed=discriminator.seed,
        ).to(self.device)
        self.discriminator_optimiser = Optimiser(
            list(self.discriminator.parameters()),
            learning_rate=discriminator.learning_rate,
            betas=(discriminator.beta1, discriminator.beta2),
            weight_decay=discriminator.weight_decay,
            max_grad_norm=discriminator.max_grad_norm,
            total_steps=config.discriminator_warmup + config.steps * config.discriminator_updates,
        )

    @property
    def total(self) -> int:
        """The discriminator's warm-up and the LoRA's updates."""
        return self.config.discriminator_warmup + self.config.steps

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"discriminator": asdict(self.judge)}

    def step(self, step: int) -> dict[str, float]:
        """The discriminator first, then the generator; during the warm-up the discriminator alone."""
        warmup, updates = self.config.discriminator_warmup, self.config.discriminator_updates
        if step < warmup:
            return self.update_discriminator(step)
        # Every update, of either network, sees data and noise of its own.
        first = warmup + (step - warmup) * (updates + 1)
        for draw in range(first, first + updates):
            values = self.update_discriminator(draw)
        return values | self.update_generator(first + updates, step - warmup)

    def update_discriminator(self, draw: int) -> dict[str, float]:
        """Learn to tell encoded images from the generator's estimates, which are held fixed."""
        batches = self.micro_batches(draw)
        losses, verdicts = [], []
        for batch in batches:
            with torch.no_grad():
                prediction = self.predict(batch, draw)
                real, fake, level = self.judged(batch, prediction, draw)
            real_logits, fake_logits = self.discriminator(real, level), self.discriminator(fake, level)
            loss = gan.discriminator_loss(self.judge.loss, real_logits, fake_logits)
            if self.judge.loss == "wgan-gp":
                mix = draws.uniforms(self.config.seed, draw, batch.positions, "penalty").to(real)
                penalty = gan.gradient_penalty(self.discriminator, real, fake, level, mix)
                loss = loss + self.judge.gradient_penalty * penalty
            (loss / len(batches)).backward()
            losses.append(loss.detach())
            verdicts.append((real_logits, fake_logits))
        means = check_finite(batches, {"discriminator_loss": losses})
        learning_rate = self.discriminator_optimiser.learning_rate
        grad_norm = self.discriminator_optimiser.step()
        return {
            **means,
            **self.verdict_statistics(verdicts),
            "discriminator_grad_norm": grad_norm,
            "discriminator_learning_rate": learning_rate,
        }

    def update_generator(self, draw: int, update: int) -> dict[str, float]:
        """Move the LoRA so that its estimates pass for real, and, in the hybrid objective, stay true to the flow."""
        weights = self.weights(update)
        batches = self.micro_batches(draw)
        diffusion, adversarial, total, sigmas = [], [], [], []
        with parameters_frozen(self.discriminator):
            for batch in batches:
                prediction = self.predict(batch, draw)
                real, fake, level = self.judged(batch, prediction, draw)
                with torch.no_grad():
                    real_logits = self.discriminator(real, level)
                adversarial_loss = gan.generator_loss(self.judge.loss, self.discriminator(fake, level), real_logits)
                diffusion_loss = flow.flow_loss(prediction.velocity, batch.x0, prediction.noise, batch.mask).mean()
                loss = weights["adversarial_weight"] * adversarial_loss
                if self.config.objective == "hybrid":
                    loss = loss + weights["diffusion_weight"] * diffusion_loss
                (loss / len(batches)).backward()
                diffusion.append(diffusion_loss.detach())
                adversarial.append(adversarial_loss.detach())
                total.append(loss.detach())
                sigmas.append(prediction.sigma)
        means = check_finite(
            batches, {"diffusion_loss": diffusion, "adversarial_loss": adversarial, "total_loss": total}
        )
        learning_rate = self.optimiser.learning_rate
        grad_norm = self.update_lora()
        return {
            **means,
            **weights,
            **sigma_statistics(sigmas),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "images_seen": float((update + 1) * self.config.batch_size * self.config.gradient_accumulation),
        }

    def predict(self, batch: Batch, draw: int) -> Prediction:
        """The generator's one-step estimate of the data from a drawn noise level."""
        noise, sigma = self.noise_and_sigma(batch, draw)
        x_t = flow.interpolate(batch.x0, noise, sigma)
        velocity = self.velocity(x_t, sigma, batch)
        return Prediction(flow.x0_from_velocity(x_t, velocity, sigma), velocity, noise, sigma)

    def judged(self, batch: Batch, prediction: Prediction, draw: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the discriminator is shown: real latents, fake latents, and the level it is told.

        Renoised: one level for a pair, independent noise. Clean: the level is the generator's sigma, since an estimate
        from much noise is another kind of picture than one from little.
        """
        if not self.config.renoise:
            return batch.x0, prediction.x0_hat, prediction.sigma
        config, positions, shape = self.config, batch.positions, batch.x0.shape[1:]
        normal = draws.normals(config.seed, draw, positions, "level").to(batch.x0)
        # Near 0 the noise no longer hides what tells an estimate at once, near 1 nothing is left to judge.
        level = torch.sigmoid(config.renoise_mean + config.renoise_std * normal).clamp(0.02, 0.98)
        clean = torch.zeros_like(level)
        real_noise = draws.normals(config.seed, draw, positions, "real noise", shape).to(batch.x0)
        fake_noise = draws.normals(config.seed, draw, positions, "fake noise", shape).to(batch.x0)
        real = flow.renoise(batch.x0, clean, level, real_noise)
        fake = flow.renoise(prediction.x0_hat, clean, level, fake_noise)
        return real, fake, level

    def weights(self, update: int) -> dict[str, float]:
        """Both weights at this update of the LoRA, counted from 0."""
        config = self.config
        progress = update / max(1, config.steps - 1)
        return {
            "adversarial_weight": annealed(
                config.adversarial_schedule, config.adversarial_weight, config.adversarial_weight_end, progress
            ),
            "diffusion_weight": annealed(
                config.diffusion_schedule, config.diffusion_weight, config.diffusion_weight_end, progress
            )
            if config.objective == "hybrid"
            else 0.0,
        }

    def verdict_statistics(self, verdicts: list[tuple[list[Tensor], list[Tensor]]]) -> dict[str, float]:
        """Mean logits and accuracy on real and on fake, over all samples of one update."""
        real, fake = ([_sample_means(maps) for maps in zip(*side, strict=True)] for side in zip(*verdicts, strict=True))
        real_accuracy, fake_accuracy = gan.accuracy(self.judge.loss, real, fake)
        return {
            "real_logits": torch.cat(real).mean().item(),
            "fake_logits": torch.cat(fake).mean().item(),
            "real_accuracy": real_accuracy,
            "fake_accuracy": fake_accuracy,
        }


def _sample_means(maps: Iterable[Tensor]) -> Tensor:
    """One logit map of each micro-batch -> each sample's mean logit, as maps of one place (samples, 1, 1, 1)."""
    return torch.cat([logits.detach().flatten(1).mean(1) for logits in maps]).reshape(-1, 1, 1, 1)


@contextmanager
def parameters_frozen(network: nn.Module) -> Iterator[None]:
    """Inside, no gradient is collected for the network's parameters; gradients still flow through to its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def train_adversarial_stage(
    lora: FluxLoRA,
    data: RealLatents,
    discriminator: DiscriminatorConfig,
    config: AdversarialStageConfig,
    *,
    device: torch.device | str,
    reporter: Reporter,
    run_folder: Path | None = None,
) -> StageResult:
    """Train ``lora`` against a fresh discriminator; neither ``lora`` nor ``data`` is changed.

    Raises ``BaseModelError`` or ``DataError`` before the first step, ``StageFailure`` (with the last good weights)
    after it.
    """
    return run(AdversarialStage(lora, data, discriminator, config, device=device), reporter, run_folder)
