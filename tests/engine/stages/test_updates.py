"""What both optimisers make of a gradient: AdamW, clipping, schedule and average by hand, with every number its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.base.base_model import FluxBase
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.optimiser import Optimiser
from fluxduel.training.stages.stage import Stage

# No two numbers that could be taken for each other are equal.
OPTIONS: dict[str, Any] = {
    "steps": 4, "learning_rate": 0.02, "weight_decay": 0.3, "batch_size": 2, "lr_schedule": "cosine",
    "ema_decay": 0.2, "gradient_checkpointing": False, "validate_every": 0,
}  # fmt: skip
STAGE_2 = AdversarialStageConfig(
    **OPTIONS, beta1=0.4, beta2=0.7, discriminator_warmup=0, discriminator_ratio="fixed", watch=False
)
JUDGE = DiscriminatorConfig(
    architecture="cnn", width=8, depth=1, augmentation="off", learning_rate=0.05, beta1=0.6, beta2=0.8,
    weight_decay=0.2,
)  # fmt: skip


class AdamW:
    """arXiv:1711.05101, algorithm 2, in float64."""

    def __init__(self, weights: Sequence[Tensor], betas: tuple[float, float], decay: float, norm: float) -> None:
        self.weights = [weight.detach().double().clone() for weight in weights]
        self.first = [torch.zeros_like(weight) for weight in self.weights]
        self.second = [torch.zeros_like(weight) for weight in self.weights]
        self.betas, self.decay, self.norm, self.updates = betas, decay, norm, 0

    def step(self, gradients: Sequence[Tensor], rate: float) -> float:
        """Returns the gradient's norm before it is clipped."""
        self.updates += 1
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        factor = min(1.0, self.norm / norm) if self.norm else 1.0
        one, two = self.betas
        for i, gradient in enumerate(gradients):
            g = gradient.double() * factor
            self.first[i] = one * self.first[i] + (1 - one) * g
            self.second[i] = two * self.second[i] + (1 - two) * g * g
            mean = self.first[i] / (1 - one**self.updates)
            square = self.second[i] / (1 - two**self.updates)
            self.weights[i] = (1 - rate * self.decay) * self.weights[i] - rate * mean / (square.sqrt() + 1e-8)
        return norm


def collected(optimiser: Optimiser) -> list[Tensor]:
    """Will hold the last gradient of each parameter as its network's losses have left it."""
    gradients = [torch.zeros_like(parameter) for parameter in optimiser.parameters]
    for i, parameter in enumerate(optimiser.parameters):
        parameter.register_post_accumulate_grad_hook(lambda p, i=i: gradients.__setitem__(i, p.grad.clone()))
    return gradients


def close(weights: Sequence[Tensor], expected: Sequence[Tensor], moved: float) -> None:
    """Within a small part of the way that the weights have gone."""
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach().double().cpu(), wanted.cpu(), rtol=0, atol=1e-3 * moved)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_the_lora_is_updated_as_its_options_say(start, data, kind: str, max_grad_norm: float) -> None:
    stage: Stage
    if kind == "diffusion":
        config = DiffusionStageConfig(**OPTIONS, max_grad_norm=max_grad_norm)
        stage, betas = DiffusionStage(start, data, config, device=DEVICE), (0.9, 0.999)
    else:
        stage_2 = dataclasses.replace(STAGE_2, max_grad_norm=max_grad_norm)
        stage, betas = AdversarialStage(start, data, JUDGE, stage_2, device=DEVICE), (0.4, 0.7)
    parameters, gradients = stage.optimiser.parameters, collected(stage.optimiser)
    by_hand = AdamW(parameters, betas, 0.3, max_grad_norm)
    average = [weight.clone() for weight in by_hand.weights]
    for step in range(4):
        values = stage.step(step)
        assert values["learning_rate"] == pytest.approx(0.02 * (1 + math.cos(math.pi * step / 4)) / 2)
        norm = by_hand.step(gradients, values["learning_rate"])
        assert values["grad_norm"] == pytest.approx(norm, rel=1e-4) and norm > 0.01, "nothing would be clipped"
        close(parameters, by_hand.weights, 0.02)
        # A young average follows faster, as (1 + n) / (10 + n).
        decay = min(0.2, (2 + step) / (11 + step))
        average = [decay * old + (1 - decay) * new for old, new in zip(average, by_hand.weights, strict=True)]
        close(list(stage.delivered().values()), average, 0.02)
    distance = max(float((a - w).abs().max()) for a, w in zip(average, by_hand.weights, strict=True))
    assert distance > 1e-3, "the average cannot be told from the weights"


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-4])
def test_the_judge_is_updated_as_its_options_say(start, data, max_grad_norm: float) -> None:
    """In its own updates and in those beside the LoRA's."""
    judge = dataclasses.replace(JUDGE, max_grad_norm=max_grad_norm)
    stage = AdversarialStage(start, data, judge, dataclasses.replace(STAGE_2, discriminator_warmup=2), device=DEVICE)
    parameters, gradients = stage.discriminator_optimiser.parameters, collected(stage.discriminator_optimiser)
    by_hand = AdamW(parameters, (0.6, 0.8), 0.2, max_grad_norm)
    for step in range(4):
        values = stage.step(step)
        assert values["discriminator_learning_rate"] == 0.05, "its rate is constant"
        norm = by_hand.step(gradients, 0.05)
        assert values["discriminator_grad_norm"] == pytest.approx(norm, rel=1e-4) and norm > 1e-4
        close(parameters, by_hand.weights, 0.05)


@pytest.mark.parametrize(("schedule", "late"), [("constant", 1.0), ("linear", 0.25), ("cosine", 0.1464466)])
def test_the_rate_rises_and_then_follows_its_schedule(start, data, schedule: str, late: float) -> None:
    """At three quarters of what is left after the warm-up."""
    config = DiffusionStageConfig(**{**OPTIONS, "lr_schedule": schedule, "steps": 8}, lr_warmup_steps=4)
    stage = DiffusionStage(start, data, config, device=DEVICE)
    rates = [stage.step(step)["learning_rate"] for step in range(8)]
    assert rates[:4] == sorted(rates[:4]) and rates[0] < rates[3] <= 0.02
    assert rates[4] == pytest.approx(0.02) and rates[7] == pytest.approx(0.02 * late, rel=1e-5)


# Noise levels


def seen_levels(stage: AdversarialStage | DiffusionStage, monkeypatch, method: str, step: int = 0) -> Tensor:
    """The noise levels at which one step calls ``method`` of the base for the first time."""
    seen: list[Tensor] = []
    original = getattr(FluxBase, method)

    def spy(self, latents: Tensor, sigma: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(sigma.detach().clone())
        return original(self, latents, sigma, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FluxBase, method, spy)
        stage.step(step)
    return seen[0]


@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
@pytest.mark.parametrize(("sampling", "centre"), [("logit_normal", 1.5), ("shifted", 2.0), ("sigmoid", 0.0)])
def test_noise_levels_have_the_mean_and_the_deviation_asked_for(
    start, monkeypatch, kind: str, sampling: str, centre: float
) -> None:
    """In logits. ``shifted`` adds FLUX's mu, which is 0.5 at 256 tokens; ``sigmoid`` knows no mean."""
    data = make_data(side=32, count=4, held_out=1)
    logits = {}
    for deviation in (0.01, 0.5):
        changes = {
            **OPTIONS, "timestep_sampling": sampling, "timestep_mean": 1.5, "timestep_std": deviation, "batch_size": 16,
        }  # fmt: skip
        if kind == "diffusion":
            stage = DiffusionStage(start, data, DiffusionStageConfig(**changes), device=DEVICE)
        else:
            config = dataclasses.replace(STAGE_2, **changes)
            stage = AdversarialStage(start, data, JUDGE, config, device=DEVICE)
        logits[deviation] = torch.logit(seen_levels(stage, monkeypatch, "velocity").double())
    assert logits[0.01].mean().item() == pytest.approx(centre, abs=0.02) and logits[0.01].std() < 0.03
    assert 0.25 < logits[0.5].std().item() < 0.8 and abs(logits[0.5].mean().item() - centre) < 0.5


@pytest.mark.parametrize(("target", "centre"), [("x0", -2.0), ("jump", 1.0)])
def test_the_judge_looks_at_the_levels_asked_for(start, data, monkeypatch, target: str, centre: float) -> None:
    """Between the end of the generator's step and noise alone, at sigmoid(mean), each endpoint with its own mean."""
    changes = {"renoise_mean": -2.0, "jump_renoise_mean": 1.0, "step_share": 0.0, "jump_steps": 1}
    for deviation, narrow in ((0.01, True), (1.0, False)):
        config = dataclasses.replace(STAGE_2, target=target, renoise_std=deviation, batch_size=16, **changes)
        judge = dataclasses.replace(JUDGE, architecture="flux_features")
        stage = AdversarialStage(start, data, judge, config, device=DEVICE)
        # A single step of a sampler ends at 0 too.
        logits = torch.logit(seen_levels(stage, monkeypatch, "features").double())
        assert (logits.std().item() < 0.03) == narrow
        assert not narrow or logits.mean().item() == pytest.approx(centre, abs=0.02)


# Accumulation


@pytest.mark.parametrize("architecture", ["cnn", "flux_features"])
def test_the_judges_own_update_on_parts_is_that_on_the_whole(start, data, architecture: str) -> None:
    """With slopes, which are measured on a share of the samples."""
    kept = []
    for size, parts in ((4, 1), (1, 4)):
        config = dataclasses.replace(STAGE_2, batch_size=size, gradient_accumulation=parts, discriminator_warmup=1)
        judge = dataclasses.replace(JUDGE, architecture=architecture, penalty_share=1.0)
        stage = AdversarialStage(start, data, judge, config, device=DEVICE)
        gradients = collected(stage.discriminator_optimiser)
        values = stage.step(0)
        assert "diffusion_loss" not in values, "the LoRA had an update"
        kept.append((torch.cat([g.flatten().double() for g in gradients]), values["discriminator_loss"]))
    (whole, loss), (summed, other_loss) = kept
    assert whole.norm() > 0 and (summed - whole).norm() < 1e-4 * whole.norm()
    assert other_loss == pytest.approx(loss, rel=1e-5)
