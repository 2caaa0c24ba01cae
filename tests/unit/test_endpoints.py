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
from fluxduel.training.endpoints import Levels, draw_levels, judged_endpoints

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


def test_x0_is_the_end_and_is_shown_at_a_level_of_its_own():
    drawn = levels(True, renoise_mean=0.5, renoise_std=0.7)
    assert bool((drawn.end == 0).all())
    assert bool(((drawn.sigma > 0) & (drawn.sigma < 1)).all())
    assert torch.equal(drawn.told, drawn.seen)
    logit = torch.logit(drawn.seen.double())
    assert distance_to_uniform(normal_cdf((logit - 0.5) / 0.7)) < 1.95
    together = torch.corrcoef(torch.stack([logit, torch.logit(drawn.sigma.double())]))[0, 1]
    assert abs(together) < 4 / math.sqrt(COUNT), "the level shown depends on where the generator started"


def test_levels_shown_keep_away_from_both_ends():
    drawn = levels(True, renoise_mean=0.0, renoise_std=5.0)
    assert drawn.seen.min() == pytest.approx(0.02) and drawn.seen.max() == pytest.approx(0.98)


def test_without_renoising_x0_is_shown_clean_and_told_by_the_generators_level():
    drawn = levels(True, renoise=False)
    assert bool((drawn.end == 0).all()) and bool((drawn.seen == 0).all())
    assert torch.equal(drawn.told, drawn.sigma)
    assert torch.equal(drawn.sigma, levels(True).sigma)


@pytest.mark.parametrize(("target_steps", "steps"), [(1, 1), (4, 4), (25, 8)])
def test_three_in_ten_x0_samples_start_on_the_samplers_grid(target_steps, steps):
    """The first level, pure noise, included; of more than eight steps it is eight."""
    drawn = levels(True, target="x0", target_steps=target_steps)
    grid = schedule(steps)[:-1].clamp(max=0.999)
    on_grid = ((drawn.sigma[:, None] - grid).abs() < 1e-6).double()
    assert on_grid.sum().item() / COUNT == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / COUNT))
    each = 0.3 / steps
    assert on_grid.mean(0).tolist() == pytest.approx([each] * steps, abs=4.5 * math.sqrt(each / COUNT))
    assert drawn.sigma.max() == pytest.approx(0.999)


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
    assert torch.equal(drawn.seen, drawn.end) and torch.equal(drawn.told, drawn.end)


def test_a_jump_of_random_length_ends_anywhere_below_its_start():
    drawn = levels(False, target="jump", jump_steps=0, timestep_sampling="uniform")
    assert bool((drawn.end <= drawn.sigma).all())
    assert distance_to_uniform(drawn.end.double() / drawn.sigma.double()) < 1.95
    assert distance_to_uniform(drawn.sigma) < 1.95
    assert torch.equal(drawn.seen, drawn.end) and torch.equal(drawn.told, drawn.end)


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


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("jump_steps", [0, 4])
def test_nothing_is_shown_below_where_it_ends(few, jump_steps):
    """Also as a bf16 transformer rounds the levels: renoising goes up, and never from pure noise."""
    drawn = levels(few, jump_steps=jump_steps, renoise_mean=-3.0)
    for dtype in (torch.float32, torch.bfloat16):
        sigma, end, seen, told = (flow.seen_sigma(level, dtype) for level in drawn)
        assert bool((end <= seen).all()) and bool((end < 1).all()) and bool((end <= sigma).all())
