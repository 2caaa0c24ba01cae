"""On a base in bf16, which rounds each noise level: what it is shown is made with the level that it sees."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.training import draws
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.metrics import held_out_flow_loss
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

OPTIONS: dict[str, Any] = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "gradient_checkpointing": False}


class Call(NamedTuple):
    """``latents`` (B, C, h, w) at levels ``sigma`` (B,), and the levels times 1000 that the transformer embeds."""

    latents: Tensor
    sigma: Tensor
    embedded: Tensor


@pytest.fixture
def rounded(start: FluxLoRA) -> FluxLoRA:
    return dataclasses.replace(start, base=BaseReference(start.base.path, "bf16"))


@pytest.fixture
def data() -> RealLatents:
    """One picture to train on, and one held out, without a posterior: what is drawn is known."""
    data = make_data(count=2, held_out=1)
    return dataclasses.replace(data, samples=tuple(dataclasses.replace(s, std=None) for s in data.samples))


@pytest.fixture
def calls(monkeypatch) -> dict[str, list[Call]]:
    """All calls of the base, as generator (``velocity``) and as trunk of the judge (``features``)."""
    found: dict[str, list[Call]] = {"velocity": [], "features": []}

    def watched(name: str) -> Any:
        original = getattr(FluxBase, name)

        def call(self: FluxBase, latents: Tensor, sigma: Tensor, *rest: Any, **named: Any) -> Any:
            embedded: list[Tensor] = []
            embedding = self.transformer.time_text_embed
            hook = embedding.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
            answer = original(self, latents, sigma, *rest, **named)
            hook.remove()
            found[name].append(Call(*(seen.detach().cpu() for seen in (latents, sigma, embedded[0]))))
            return answer

        return call

    for name in found:
        monkeypatch.setattr(FluxBase, name, watched(name))
    return found


def assert_seen(calls: list[Call]) -> None:
    """Each level is one that bf16 leaves as it is, although few numbers are."""
    assert calls
    for call in calls:
        assert call.embedded.dtype == torch.bfloat16
        assert torch.equal(call.embedded.float() / 1000, call.sigma.float())


def test_stage_1_noises_to_the_level_that_is_seen(rounded, data, calls) -> None:
    stage = DiffusionStage(rounded, data, DiffusionStageConfig(**OPTIONS), device=DEVICE)
    assert stage.base.dtype == torch.bfloat16
    values = [stage.step(step) for step in range(3)]
    assert_seen(calls["velocity"])
    x0 = data.samples[data.training[0]].mean
    for step, call in enumerate(calls["velocity"]):
        noise = draws.normals(0, step, range(4), "noise", x0.shape)
        sigma = call.sigma[:, None, None, None]
        torch.testing.assert_close(call.latents, (1 - sigma) * x0 + sigma * noise, rtol=0, atol=1e-6)
        assert values[step]["sigma_mean"] == pytest.approx(call.sigma.mean().item(), rel=1e-6)


@pytest.mark.parametrize("target", ["x0", "jump"])
def test_stage_2_noises_to_the_levels_that_are_seen(rounded, data, calls, target: str) -> None:
    config = AdversarialStageConfig(**OPTIONS, discriminator_warmup=1, target=target, watch=False)
    judge = DiscriminatorConfig(width=8, penalty_share=1.0)
    stage = AdversarialStage(rounded, data, judge, config, device=DEVICE)
    for step in range(3):
        stage.step(step)
    assert_seen(calls["velocity"])
    assert_seen(calls["features"])
    (batch,) = stage.micro_batches(5)
    prediction = stage.predict(batch, 5)
    noise = draws.normals(0, 5, range(4), "noise", batch.x0.shape[1:])
    sigma = calls["velocity"][-1].sigma[:, None, None, None]
    expected = (1 - sigma) * batch.x0.cpu() + sigma * noise
    torch.testing.assert_close(prediction.x_t.cpu(), expected, rtol=0, atol=1e-6)


def test_the_held_out_loss_is_at_the_levels_that_are_seen(rounded, data, calls) -> None:
    base = load_base(rounded.base, DEVICE)
    lora.attach(base, rounded)
    held_out_flow_loss(base, data, 1.0, batch_size=2)
    assert_seen(calls["velocity"])
    x0 = data.samples[data.held_out[0]].mean
    noise = draws.normals(0, 0, [0], "held-out", x0.shape)
    for call in calls["velocity"]:
        sigma = call.sigma[:, None, None, None]
        torch.testing.assert_close(call.latents, (1 - sigma) * x0 + sigma * noise, rtol=0, atol=1e-6)
    assert len({call.sigma.item() for call in calls["velocity"]}) == len(calls["velocity"]) > 1


def test_levels_are_rounded_at_all(rounded, data, calls) -> None:
    """Of a few drawn levels none is by chance what bf16 makes of it, so that the tests above can fail."""
    drawn = torch.rand(32, generator=torch.Generator().manual_seed(0))
    base = load_base(rounded.base, DEVICE)
    assert ((base.seen_sigma(drawn) - drawn).abs() > 1e-5).float().mean() > 0.9


def test_the_lora_learns_in_fp32(rounded, data) -> None:
    """The rate is far below bf16's steps, and each weight still moves."""
    config = DiffusionStageConfig(**OPTIONS | {"learning_rate": 1e-6, "steps": 1})
    stage = DiffusionStage(rounded, data, config, device=DEVICE)
    before = lora.snapshot(stage.base)
    stage.step(0)
    after = lora.snapshot(stage.base)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert (moved > 0).float().mean() > 0.9 and moved.max() < 1e-5
