"""Noise levels of stage 2: where the generator starts, where it steps to, and at which level both sides are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.endpoints import GRID_SHARE, Levels, draw_levels, judged_endpoints

TOKENS = 64
COUNT = 2000


def levels(few: bool, count: int = COUNT, draw: int = 3, **changes) -> Levels:
    return draw_levels(AdversarialStageConfig(**changes), draw, range(count), [few] * count, TOKENS)


def schedule(steps: int) -> Tensor:
    """diffusers' own schedule of FLUX for ``TOKENS`` tokens, with its 0 at the end."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(TOKENS))
    return scheduler.sigmas


def distance_to_uniform(values: Tensor) -> float:
    """Kolmogorov and Smirnov's statistic times the root of the count: above 1.95 at one in a thousand."""
    ordered, count = values.double().sort().values, len(values)
    above = torch.arange(1, count + 1) / count - ordered
    return float(torch.maximum(above, 1 / count - above).max()) * math.sqrt(count)


def normal_cdf(values: Tensor) -> Tensor:
    return torch.special.ndtr(values.double())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_steps": 1}, ("x0",)),
        ({"target_steps": 8}, ("x0",)),
        ({"target_steps": 9}, ("jump",)),
        ({"target_steps": 25}, ("jump",)),
        ({"target": "x0", "target_steps": 25}, ("x0",)),
        ({"target": "jump", "target_steps": 4}, ("jump",)),
        ({"target": "two_samplers", "target_steps": 25}, ("x0", "jump")),
    ],
)
def test_the_number_of_steps_chooses_the_target(changes, expected):
    assert judged_endpoints(AdversarialStageConfig(**changes)) == expected


def added_noise(drawn: Levels) -> Tensor:
    """The share of noise that is added from where the step ends to where it is shown."""
    return (drawn.seen.double() - drawn.end.double()) / (1 - drawn.end.double())


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("jump_steps", [0, 4])
def test_both_are_shown_above_their_end_by_a_level_of_its_own(few, jump_steps):
    """The share of noise added is logit-normal, and says nothing of where the generator started or ended."""
    mean = 0.5 if few else -0.4
    drawn = levels(few, renoise_mean=0.5, jump_renoise_mean=-0.4, renoise_std=0.7, jump_steps=jump_steps)
    assert bool(((drawn.sigma > 0) & (drawn.sigma < 1)).all())
    assert bool((drawn.end <= drawn.sigma).all()) and bool((drawn.seen > drawn.end).all())
    assert torch.equal(drawn.told, drawn.seen)
    logit = torch.logit(added_noise(drawn))
    assert distance_to_uniform(normal_cdf((logit - mean) / 0.7)) < 1.95
    for other in (drawn.sigma, drawn.end):
        together = torch.corrcoef(torch.stack([logit, other.double()]))[0, 1]
        assert abs(together) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("few", [True, False])
def test_neither_clean_latents_nor_noise_alone_are_shown(few):
    added = added_noise(levels(few, renoise_std=5.0))
    assert added.min().item() == pytest.approx(0.02, rel=1e-4) and added.max().item() == pytest.approx(0.98, rel=1e-4)


@pytest.mark.parametrize("few", [True, False])
def test_without_renoising_the_end_is_shown_and_told_by_the_generators_level(few):
    drawn = levels(few, renoise=False)
    assert torch.equal(drawn.seen, drawn.end) and torch.equal(drawn.told, drawn.sigma)
    renoised = levels(few)
    assert torch.equal(drawn.sigma, renoised.sigma) and torch.equal(drawn.end, renoised.end)


@pytest.mark.parametrize(("target_steps", "steps"), [(1, 1), (4, 4), (25, 8)])
def test_x0_is_one_step_to_the_data_or_a_step_of_the_sampler(target_steps, steps):
    """The share on the grid, at each of its levels alike, pure noise included; of more than eight steps it is eight."""
    drawn = levels(True, target="x0", target_steps=target_steps)
    grid = schedule(steps)
    starts = (drawn.sigma[:, None] - grid[:-1].clamp(max=0.999)).abs() < 1e-6
    on_grid = starts.any(1)
    share = GRID_SHARE
    assert on_grid.double().mean().item() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / COUNT))
    each = share / steps
    assert starts.double().mean(0).tolist() == pytest.approx([each] * steps, abs=4.5 * math.sqrt(each / COUNT))
    torch.testing.assert_close(drawn.end[on_grid], grid[1:][starts[on_grid].int().argmax(1)], rtol=0, atol=1e-6)
    assert bool((drawn.end[~on_grid] == 0).all())
    assert drawn.sigma.max().item() == pytest.approx(0.999)


def test_off_the_grid_x0_samples_start_where_stage_1s_do():
    """timestep_sampling's law: a logit-normal, shifted for the picture's size."""
    drawn = levels(True, timestep_sampling="shifted", timestep_mean=0.2, timestep_std=0.8, target_steps=2)
    grid = schedule(2)[:-1].clamp(max=0.999)
    free = drawn.sigma[((drawn.sigma[:, None] - grid).abs() > 1e-6).all(1)].double()
    unshifted = torch.logit(free) - calculate_shift(TOKENS)
    assert distance_to_uniform(normal_cdf((unshifted - 0.2) / 0.8)) < 1.95


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_jump_is_one_step_of_the_sampler(steps):
    drawn = levels(False, target="jump", jump_steps=steps)
    grid = schedule(steps)
    place = (drawn.sigma[:, None] - grid[:-1].clamp(max=0.999)).abs().argmin(1)
    torch.testing.assert_close(drawn.sigma, grid[place].clamp(max=0.999), rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn.end, grid[place + 1], rtol=0, atol=1e-6)
    shares = torch.bincount(place, minlength=steps) / COUNT
    assert shares.tolist() == pytest.approx([1 / steps] * steps, abs=4.5 * math.sqrt(1 / steps / COUNT))


def test_a_jump_of_random_length_ends_anywhere_below_its_start():
    drawn = levels(False, target="jump", jump_steps=0, timestep_sampling="uniform")
    assert distance_to_uniform(drawn.end.double() / drawn.sigma.double()) < 1.95
    assert distance_to_uniform(drawn.sigma) < 1.95


@pytest.mark.parametrize("changes", [{}, {"jump_steps": 0}, {"renoise": False}])
def test_each_sample_is_drawn_for_itself(changes):
    """By its own kind, and by (seed, draw, position) whatever batch it is in."""
    config = AdversarialStageConfig(target="two_samplers", **changes)
    few = [True, False, False, True, True, False]
    mixed = draw_levels(config, 5, range(6), few, TOKENS)
    for level, x0, jump in zip(mixed, levels(True, 6, 5, **changes), levels(False, 6, 5, **changes), strict=True):
        assert torch.equal(level, torch.where(torch.tensor(few), x0, jump))
    part = draw_levels(config, 5, [2, 3], few[2:4], TOKENS)
    assert all(torch.equal(a, b[2:4]) for a, b in zip(part, mixed, strict=True))
    other = draw_levels(config, 6, range(6), few, TOKENS)
    assert not torch.equal(other.sigma, mixed.sigma)


@pytest.mark.parametrize(
    ("few", "jump_steps"),
    [
        (True, 4),
        (False, 0),
        (False, 4),
        (False, 1000),
    ],
)
def test_rounded_levels_can_be_renoised(few, jump_steps):
    """As a bf16 transformer rounds them: what is shown is not below where the step ended, which is not pure noise."""
    config = AdversarialStageConfig(jump_steps=jump_steps, renoise_mean=-3.0)
    drawn = draw_levels(config, 3, range(COUNT), [few] * COUNT, 4096)
    for dtype in (torch.float32, torch.bfloat16):
        sigma, end, seen, _ = (flow.seen_sigma(level, dtype) for level in drawn)
        assert bool((end <= seen).all()) and bool((end < 1).all()) and bool((end <= sigma).all())
