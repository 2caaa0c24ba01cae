"""The sampler against diffusers' scheduler, the held-out loss against its definition, the plot's smoothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift

from fluxduel.tests.engine.conftest import make_data
from fluxduel.training import draws
from fluxduel.training.base.base_model import load_base
from fluxduel.training.base.sampler import sample
from fluxduel.training.data.batches import held_out_batches
from fluxduel.training.evidence.glossary import CURVES
from fluxduel.training.evidence.metrics import HELD_OUT_SIGMAS, held_out_flow_loss
from fluxduel.training.evidence.plot import plot_logs
from fluxduel.training.evidence.training_log import TrainingLog
from fluxduel.training.lora import adapter as lora


@pytest.fixture
def base(start):
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    return base


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_sampling_is_the_pipelines_loop(base, data, steps):
    """The denoising loop of diffusers' FLUX pipeline, with its scheduler, packing and ids, on the same noise."""
    height, width = 4, 6
    prompt = data.prompts[0]
    got = sample(
        base,
        prompt.prompt_embeds,
        prompt.pooled_prompt_embeds,
        height=height,
        width=width,
        steps=steps,
        seeds=[11, 12],
        guidance=2.5,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(6))
    noise = torch.cat([draws.normals(seed, 0, [0], "sample", (16, height, width)) for seed in (11, 12)])
    tokens = FluxPipeline._pack_latents(noise, 2, 16, height, width)
    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        for t in scheduler.timesteps:
            velocity = base.transformer(
                hidden_states=tokens,
                encoder_hidden_states=prompt.prompt_embeds.expand(2, -1, -1),
                pooled_projections=prompt.pooled_prompt_embeds.expand(2, -1),
                timestep=t.expand(2) / 1000,
                guidance=torch.full((2,), 2.5),
                img_ids=ids,
                txt_ids=torch.zeros(prompt.prompt_embeds.shape[0], 3),
                return_dict=False,
            )[0]
            tokens = scheduler.step(velocity, t, tokens, return_dict=False)[0]
    expected = FluxPipeline._unpack_latents(tokens, height * 8, width * 8, 8)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_same_picture_alone_and_in_company(base, data):
    prompt = data.prompts[0]
    common = dict(height=4, width=4, steps=2, guidance=1.0)
    together = sample(base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, seeds=[5, 6], **common)
    alone = sample(base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, seeds=[6], **common)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pictures_are_the_same_in_batches_of_any_size(base, data, batch_size):
    """No pass is larger than asked for, and each is followed by a call."""
    prompt = data.prompts[0]
    common = dict(height=4, width=4, steps=2, seeds=range(5), guidance=1.0)
    whole = sample(base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, **common)
    sizes, calls = [], []
    hook = base.transformer.x_embedder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    parts = sample(
        base,
        prompt.prompt_embeds,
        prompt.pooled_prompt_embeds,
        batch_size=batch_size,
        after_step=lambda: calls.append(None),
        **common,
    )
    hook.remove()
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert max(sizes) == batch_size and sum(sizes) == 5 * 2 and len(calls) == len(sizes)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_held_out_loss_looks_at_a_few_pictures_that_are_drawn(base, batch_size):
    """Sixteen of all, whatever the batch, and not the first of a folder that may be sorted."""
    data = make_data(count=60, held_out=50)
    seen = []
    loss = held_out_flow_loss(base, data, 1.0, batch_size=batch_size, after_step=lambda: seen.append(None))
    names = [name for batch in held_out_batches(data, 50, most=16) for name in batch.names]
    assert len(names) == 16 and len(seen) == -(-16 // batch_size) * len(HELD_OUT_SIGMAS)
    places = tuple(i for i in data.held_out if data.samples[i].name in names)
    assert places != data.held_out[:16] and max(places) >= data.held_out[32]
    alone = dataclasses.replace(data, held_out=places)
    assert loss == pytest.approx(held_out_flow_loss(base, alone, 1.0, batch_size=4), rel=1e-5)
    assert loss != pytest.approx(held_out_flow_loss(base, data, 1.0, batch_size=4, most=50), rel=1e-5)


def test_sampling_can_be_ended_between_steps(base, data):
    calls = []

    def after_step() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    prompt = data.prompts[0]
    with pytest.raises(KeyboardInterrupt):
        sample(
            base,
            prompt.prompt_embeds,
            prompt.pooled_prompt_embeds,
            height=4,
            width=4,
            steps=9,
            seeds=[0],
            guidance=1.0,
            after_step=after_step,
        )
    assert len(calls) == 2


def test_held_out_loss_is_its_definition(base, data):
    """Picture by picture and level by level, from the posterior's mean, in plain arithmetic."""
    expected = []
    for place, index in enumerate(data.held_out):
        held_out = data.samples[index]
        prompt = data.prompts[held_out.prompt]
        noise = draws.normals(0, 0, [place], "held-out", (16, 4, 4))
        for sigma in HELD_OUT_SIGMAS:
            x_t = (1 - sigma) * held_out.mean[None] + sigma * noise
            with torch.no_grad():
                velocity = base.velocity(
                    x_t, torch.tensor([sigma]), prompt.prompt_embeds[None], prompt.pooled_prompt_embeds[None], 1.0
                )
            expected.append((velocity - (noise - held_out.mean)).square().mean().item())
    for batch_size in (1, 2, 4):
        got = held_out_flow_loss(base, data, 1.0, batch_size=batch_size)
        assert got == pytest.approx(np.mean(expected), rel=1e-5)


def test_held_out_loss_of_a_model_that_says_nothing_is_known(base, monkeypatch):
    """With v = 0 the loss is E (noise - x0)^2 = 1 + E x0^2."""
    wide = make_data(count=6, held_out=4, side=16)
    monkeypatch.setattr(base, "velocity", lambda x_t, *a: torch.zeros_like(x_t))
    power = torch.stack([wide.samples[i].mean for i in wide.held_out]).square().mean().item()
    assert held_out_flow_loss(base, wide, 1.0, batch_size=4) == pytest.approx(1 + power, rel=0.02)


def test_nothing_held_out_is_nan(base, data):
    assert np.isnan(held_out_flow_loss(base, dataclasses.replace(data, held_out=()), 1.0, batch_size=4))


def test_the_plot_shows_each_series_in_its_colour():
    records = tuple(
        {"step": i, "total": 30, "diffusion_loss": 1 / i, "grad_norm": 0.1 * i, "held_out_loss": 0.5}
        for i in range(1, 31)
    )
    told = {"adversarial_loss": 0.7, "discriminator_loss": 0.6, "real_accuracy": 0.9, "fake_accuracy": 0.8,
            "pair_accuracy": 0.85}  # fmt: skip
    watched = {"score": 2.0, "diversity": 30.0, "high_frequency": 1.2, "best_step": 15.0}
    both = tuple(r | told | (watched if r["step"] % 5 == 0 else {}) for r in records)
    picture = np.asarray(plot_logs([TrainingLog("diffusion", records), TrainingLog("adversarial", both)])).astype(int)
    left, right = picture[:, :700], picture[:, 700:]

    def has(part: np.ndarray, name: str) -> bool:
        colour = [int(CURVES[name].colour[at : at + 2], 16) for at in (1, 3, 5)]
        return bool((np.abs(part - np.array(colour)).max(-1) < 12).sum() > 50)

    # The gray of the gradient norm is also that of text.
    assert {name for name in CURVES if has(left, name)} == {"diffusion_loss", "held_out_loss", "grad_norm"}
    assert {name for name in CURVES if has(right, name)} | {"grad_norm"} == set(CURVES)
    with pytest.raises(ValueError, match="no training log"):
        plot_logs([])


def test_a_constant_or_single_value_can_be_plotted():
    plot_logs([TrainingLog("diffusion", ({"step": 1, "total": 1, "diffusion_loss": 0.0, "grad_norm": 0.0},))])
