"""Rectified flow against float64 algebra, and schedules against diffusers' own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from fluxduel.training import flow

SHAPE = (5, 16, 6, 4)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return x0, noise, torch.tensor([0.001, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)


def test_data_and_noise_come_back_from_the_true_velocity(pair):
    x0, noise, sigma = pair
    x_t = flow.interpolate(x0, noise, sigma)
    velocity = flow.velocity_target(x0, noise)
    torch.testing.assert_close(flow.x0_from_velocity(x_t, velocity, sigma), x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(flow.noise_from_velocity(x_t, velocity, sigma), noise, rtol=0, atol=1e-14)


def test_the_velocity_is_the_derivative_of_the_path(pair):
    x0, noise, sigma = pair
    step = 1e-6
    slope = (flow.interpolate(x0, noise, sigma + step) - flow.interpolate(x0, noise, sigma - step)) / (2 * step)
    torch.testing.assert_close(slope, flow.velocity_target(x0, noise), rtol=0, atol=1e-8)


def test_interpolation_agrees_with_diffusers_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, noise = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4)
    timesteps = scheduler.timesteps[[10, 500, 990]]
    sigmas = scheduler.sigmas[[10, 500, 990]]
    torch.testing.assert_close(flow.interpolate(x0, noise, sigmas), scheduler.scale_noise(x0, timesteps, noise))


def test_a_jump_along_the_true_velocity_lands_on_the_path(pair):
    x0, noise, sigma = pair
    x_t, velocity = (1 - sigma)[:, None, None, None] * x0 + sigma[:, None, None, None] * noise, noise - x0
    for share in (0.0, 0.4, 1.0):
        r = share * sigma
        landed = torch.stack([(1 - level) * a + level * b for a, b, level in zip(x0, noise, r, strict=True)])
        torch.testing.assert_close(flow.jump(x_t, velocity, sigma, r), landed, rtol=0, atol=1e-14)


def test_a_jump_is_the_schedulers_step(pair):
    """With a velocity that is not the true one, from each level of diffusers' schedule to the next, 0 included."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    x_t, velocity = (t.float() for t in pair[:2])
    for timestep, sigma, r in zip(scheduler.timesteps, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True):
        theirs = scheduler.step(velocity, timestep, x_t).prev_sample
        torch.testing.assert_close(flow.jump(x_t, velocity, sigma.expand(5), r.expand(5)), theirs)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize(("r", "s"), [(0.0, 0.3), (0.2, 0.2), (0.2, 0.7), (0.5, 0.98)])
def test_renoising_gives_the_law_of_the_higher_level(r, s):
    """Mean (1 - s) x0 and variance s^2, from the moments of many independent draws in float64."""
    generator = torch.Generator().manual_seed(1)
    count = 400_000
    x0 = 1.7
    x_r = (1 - r) * x0 + r * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    fresh = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    levels = (torch.full((count,), v, dtype=torch.float64) for v in (r, s))
    x_s = flow.renoise(x_r, *levels, fresh)
    assert x_s.mean().item() == pytest.approx((1 - s) * x0, abs=5 * s / math.sqrt(count))
    assert x_s.std().item() == pytest.approx(s, rel=5 / math.sqrt(count))


def test_renoising_refuses_to_go_down():
    x = torch.zeros(1, 16, 2, 2)
    with pytest.raises(ValueError, match="s >= r"):
        flow.renoise(x, torch.tensor([0.5]), torch.tensor([0.4]), x)


@pytest.mark.parametrize("tokens", [16, 64, 256, 1024, 4096, 6000])
def test_mu_is_the_pipelines(tokens):
    assert flow.resolution_mu(tokens) == pytest.approx(calculate_shift(tokens), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("tokens", [64, 1024, 4096])
def test_sampling_sigmas_are_the_schedulers(steps, tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens))
    ours = flow.sampling_sigmas(steps, flow.resolution_mu(tokens)).float()
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=0, atol=2e-7)


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("tokens", [64, 1024, 4096])
def test_the_next_level_of_the_schedule_is_the_next_sigma(steps, tokens):
    """From every level of the sampler's own schedule, pure noise included; float64 in, float64 out."""
    levels = flow.sampling_sigmas(steps, flow.resolution_mu(tokens))
    following = flow.next_sigma(levels[:-1], steps, flow.resolution_mu(tokens))
    assert levels.dtype == following.dtype == torch.float64
    torch.testing.assert_close(following, levels[1:], rtol=0, atol=1e-13)
    single = flow.next_sigma(levels[:-1].float(), steps, flow.resolution_mu(tokens))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), levels[1:], rtol=0, atol=2e-6)


@pytest.mark.parametrize("tokens", [64, 4096])
def test_between_the_levels_a_step_is_as_long(tokens):
    """By the shift's inverse in logits; two steps of a schedule twice as fine are one; none begins below the data."""
    sigma = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    mu = calculate_shift(tokens)
    lower = torch.sigmoid(torch.logit(sigma) - mu) - 1 / 5
    following = flow.next_sigma(sigma, 5, flow.resolution_mu(tokens))
    inside = lower > 0
    torch.testing.assert_close(following[inside], torch.sigmoid(torch.logit(lower[inside]) + mu), rtol=1e-9, atol=0)
    assert bool((following[~inside] == 0).all()) and bool(inside.any()) and bool((~inside).any())
    half = flow.next_sigma(sigma, 10, flow.resolution_mu(tokens))
    assert bool((following <= half).all()) and bool((half < sigma).all())
    torch.testing.assert_close(flow.next_sigma(half, 10, flow.resolution_mu(tokens)), following, rtol=0, atol=1e-13)
    assert flow.next_sigma(torch.zeros(1), 5, flow.resolution_mu(tokens)).item() == 0


def test_shift_moves_sigma_as_published():
    sigma = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    mu = 1.15
    expected = math.exp(mu) / (math.exp(mu) + (1 / sigma - 1))
    torch.testing.assert_close(flow.shift_sigma(sigma, mu), expected, rtol=1e-12, atol=0)


def _expected_mean(sampling: str, tokens: int) -> float:
    """Mean of sigma by quadrature over the normal, in float64."""
    n = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    weight = torch.exp(-n.square() / 2)
    weight /= weight.sum()
    sigma = torch.sigmoid((0.0 if sampling == "sigmoid" else 0.5) + 0.8 * n)
    if sampling == "shifted":
        scale = math.exp(calculate_shift(tokens))
        sigma = scale * sigma / (1 + (scale - 1) * sigma)
    return float((weight * sigma).sum())


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "sigmoid", "shifted"])
def test_drawn_levels_have_the_right_mean(sampling):
    generator = torch.Generator().manual_seed(2)
    count = 200_000
    normal, uniform = torch.randn(count, generator=generator), torch.rand(count, generator=generator)
    sigma = flow.draw_sigma(sampling, normal, uniform, mean=0.5, std=0.8, mu=flow.resolution_mu(1024))
    expected = 0.5 if sampling == "uniform" else _expected_mean(sampling, 1024)
    assert sigma.mean().item() == pytest.approx(expected, abs=0.002)
    assert 0 < sigma.min() and sigma.max() < 1


def test_unknown_sampling_is_named():
    with pytest.raises(ValueError, match="'beta'"):
        flow.draw_sigma("beta", torch.zeros(1), torch.zeros(1), 0, 1, flow.resolution_mu(64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_seen_sigma_is_what_the_transformer_computes_with(dtype):
    """For every sigma of a fine grid: handing over the result, cast and times 1000 in ``dtype``, gives it back."""
    sigma = torch.linspace(0.001, 1.0, 100_001)
    seen = flow.seen_sigma(sigma, dtype)
    torch.testing.assert_close((seen.to(dtype) * 1000).float() / 1000, seen, rtol=0, atol=0)
    assert (seen - sigma).abs().max() < (0.005 if dtype is torch.bfloat16 else 0.001)
    assert (seen != sigma).float().mean() > 0.9
    torch.testing.assert_close(flow.seen_sigma(sigma, torch.float32), sigma, rtol=0, atol=0)


def test_masked_loss_is_the_mean_over_the_masked_area(pair):
    x0, noise, _ = pair
    velocity = torch.randn(SHAPE, dtype=torch.float64)
    mask = torch.zeros(5, 1, 6, 4, dtype=torch.float64)
    mask[:, :, :3] = 1
    expected = (velocity - (noise - x0))[:, :, :3].square().mean((1, 2, 3))
    torch.testing.assert_close(flow.flow_loss(velocity, x0, noise, mask), expected)
    ones = torch.ones_like(mask)
    torch.testing.assert_close(flow.flow_loss(velocity, x0, noise, ones), flow.flow_loss(velocity, x0, noise))
