"""What is masked out has no part in the flow loss: of either stage, and on held-out pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.base.base_model import FluxBase, load_base
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.metrics import held_out_flow_loss
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

OPTIONS: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-3, "gradient_checkpointing": False}


@pytest.fixture
def data() -> RealLatents:
    """One picture to train on, and one held out; of each some places count, some a little and some not at all."""
    data = make_data(count=2, held_out=1)
    generator = torch.Generator().manual_seed(4)
    masks = [torch.rand(1, 4, 4, generator=generator).sub(0.5).clamp_min(0) * 2 for _ in data.samples]
    assert all(0 < (mask == 0).sum() < 16 for mask in masks)
    samples = (dataclasses.replace(s, std=None, mask=m) for s, m in zip(data.samples, masks, strict=True))
    return dataclasses.replace(data, samples=tuple(samples))


@pytest.fixture
def predicted(monkeypatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(x_t, sigma, velocity) of each call of the generator."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    original = FluxBase.velocity

    def call(self: FluxBase, x_t: Tensor, sigma: Tensor, *rest: Any, **named: Any) -> Tensor:
        velocity = original(self, x_t, sigma, *rest, **named)
        seen.append(tuple(each.detach().double().cpu() for each in (x_t, sigma, velocity)))
        return velocity

    monkeypatch.setattr(FluxBase, "velocity", call)
    return seen


def by_hand(calls: list[tuple[Tensor, Tensor, Tensor]], x0: Tensor, mask: Tensor) -> float:
    """The mean over samples of the squared error's mean over channels and over the masked area."""
    losses = []
    for x_t, sigma, velocity in calls:
        for row in range(len(sigma)):
            noise = (x_t[row] - (1 - sigma[row]) * x0) / sigma[row]
            error = (velocity[row] - (noise - x0)).square()
            losses.append((error * mask).sum() / (16 * mask.sum()))
    return torch.stack(losses).mean().item()


def assert_masked(value: float, calls: list[tuple[Tensor, Tensor, Tensor]], data: RealLatents, index: int) -> None:
    sample = data.samples[index]
    x0, mask = sample.mean.double(), sample.mask.double()
    assert value == pytest.approx(by_hand(calls, x0, mask), rel=1e-4)
    assert value != pytest.approx(by_hand(calls, x0, torch.ones_like(mask)), rel=2e-3), "it would be so without"


def test_stage_1_learns_where_the_mask_is(start, data, predicted) -> None:
    stage = DiffusionStage(start, data, DiffusionStageConfig(**OPTIONS), device=DEVICE)
    assert_masked(stage.step(0)["diffusion_loss"], predicted, data, data.training[0])


def test_the_flow_loss_of_stage_2_is_where_the_mask_is(start, data, predicted) -> None:
    config = AdversarialStageConfig(**OPTIONS, discriminator_warmup=0, watch=False)
    stage = AdversarialStage(start, data, DiscriminatorConfig(width=8), config, device=DEVICE)
    values = stage.step(0)
    assert_masked(values["diffusion_loss"], predicted[:1], data, data.training[0])
    # Its gradient too: 2 mask error / (channels x masked area x batch).
    (x_t, sigma, velocity), sample = predicted[0], data.samples[data.training[0]]
    x0, mask, sigma = sample.mean.double(), sample.mask.double(), sigma[:, None, None, None]
    error = velocity - ((x_t - (1 - sigma) * x0) / sigma - x0)
    gradient = 2 * mask * error / (16 * mask.sum() * 2)
    assert values["diffusion_velocity_grad"] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_the_held_out_loss_is_where_the_mask_is(start, data, predicted) -> None:
    base = load_base(start.base, DEVICE)
    lora.attach(base, start)
    value = held_out_flow_loss(base, data, 1.0, batch_size=2)
    assert_masked(value, predicted, data, data.held_out[0])
