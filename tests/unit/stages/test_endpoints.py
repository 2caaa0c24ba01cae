"""Noise levels of stage 2: where the generator starts, where it steps to, and at which level both sides are shown."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.base.families.family import Shift
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.stages.endpoints import Levels, draw_levels, judged_endpoints, sampler_levels

STEP_SHARE = AdversarialStageConfig().step_share

TOKENS = 64
SHIFT = Shift(FLUX1, TOKENS)
COUNT = 2000


def levels(few: bool, count: int = COUNT, draw: int = 3, **changes) -> Levels:
    return draw_levels(AdversarialStageConfig(**changes), draw, range(count), [few] * count, SHIFT)


def position(sigma: Tensor) -> Tensor:
    """Where a level is in the even schedule that FLUX shifts, float64: shifting adds the mu to its logit."""
    return torch.sigmoid(torch.logit(sigma.double()) - calculate_shift(TOKENS))


def step_ends(sigma: Tensor, steps: int) -> Tensor:
    """Where the sampler's step from ``sigma`` ends: a ``steps``-th lower in the even schedule, or at the data."""
    lower = (position(sigma) - 1 / steps).clamp_min(0)
    return torch.sigmoid(torch.logit(lower) + calculate_shift(TOKENS))


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


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "sigmoid", "shifted"])
def test_all_samples_start_where_stage_1s_do(few, sampling):
    """timestep_sampling's law, and the same levels whatever is judged there."""
    config = {"timestep_sampling": sampling, "timestep_mean": 0.4, "timestep_std": 0.8}
    drawn = levels(few, **config)
    logit = torch.logit(drawn.sigma.double()) - (calculate_shift(TOKENS) if sampling == "shifted" else 0)
    mean = 0 if sampling == "sigmoid" else 0.4
    law = drawn.sigma if sampling == "uniform" else normal_cdf((logit - mean) / 0.8)
    assert distance_to_uniform(law) < 1.95
    for changes in ({"target_steps": 1}, {"jump_steps": 0}, {"jump_steps": 9}, {"renoise": False}):
        for other in (True, False):
            assert torch.equal(levels(other, 200, **config, **changes).sigma, drawn.sigma[:200])


@pytest.mark.parametrize(("target_steps", "steps"), [(2, 2), (4, 4), (25, 8)])
def test_x0_is_one_step_to_the_data_or_a_step_of_the_sampler(target_steps, steps):
    """A share of the samples, at all levels alike, is a step, of eight at most; the others end at the data."""
    drawn = levels(True, target="x0", target_steps=target_steps, timestep_sampling="uniform")
    expected = step_ends(drawn.sigma, steps)
    stepped = drawn.end > 0
    torch.testing.assert_close(drawn.end[stepped].double(), expected[stepped], rtol=0, atol=1e-6)
    # A sampler's last step ends at the data as well: only above it the two differ.
    place = position(drawn.sigma)
    assert not bool(stepped[place < 1 / steps - 1e-6].any())
    above = place > 1 / steps + 1e-6
    middle = place[above].median()
    for part in (above & (place <= middle), above & (place > middle)):
        count = int(part.sum())
        deviation = math.sqrt(STEP_SHARE * (1 - STEP_SHARE) / count)
        assert stepped[part].double().mean().item() == pytest.approx(STEP_SHARE, abs=4 * deviation)
    assert 0 < STEP_SHARE < 1


def test_for_one_step_all_end_at_the_data():
    assert bool((levels(True, target_steps=1).end == 0).all())
    assert bool((levels(False, target="jump", jump_steps=1).end == 0).all())


@pytest.mark.parametrize("steps", [2, 4, 7, 25])
def test_a_jump_is_one_step_of_the_sampler(steps):
    """From any level, also between those that a sampler stops at; the last one ends at the data."""
    drawn = levels(False, target="jump", jump_steps=steps, timestep_sampling="uniform")
    expected = step_ends(drawn.sigma, steps).clamp(max=0.995)
    torch.testing.assert_close(drawn.end.double(), expected, rtol=0, atol=1e-6)
    at_the_data = drawn.end == 0
    assert bool(at_the_data.any()) and bool((~at_the_data).any())
    # Other than x0's: neither the few-step sampler's number of steps nor its share has a part in it.
    other = levels(False, target="jump", jump_steps=steps, timestep_sampling="uniform", target_steps=1)
    assert torch.equal(other.end, drawn.end)


def test_no_step_ends_where_nothing_can_be_renoised():
    """Short steps from close to pure noise: they end at 0.995 instead, and only they."""
    drawn = levels(False, jump_steps=1000, timestep_sampling="uniform")
    expected = step_ends(drawn.sigma, 1000)
    high = expected > 0.995
    assert bool(high.any())
    assert torch.equal(drawn.end[high], torch.full((int(high.sum()),), 0.995))
    torch.testing.assert_close(drawn.end[~high].double(), expected[~high], rtol=0, atol=1e-6)


def test_a_jump_of_random_length_ends_anywhere_below_its_start():
    drawn = levels(False, target="jump", jump_steps=0, timestep_sampling="uniform")
    assert distance_to_uniform(drawn.end.double() / drawn.sigma.double()) < 1.95
    # How long it is says nothing of where it starts.
    together = torch.corrcoef(torch.stack([drawn.end / drawn.sigma, drawn.sigma]))[0, 1]
    assert abs(together) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("changes", [{}, {"jump_steps": 0}, {"renoise": False}])
def test_each_sample_is_drawn_for_itself(changes):
    """By its own kind, and by (seed, draw, position) whatever batch it is in."""
    config = AdversarialStageConfig(target="two_samplers", **changes)
    few = [True, False, False, True, True, False]
    mixed = draw_levels(config, 5, range(6), few, SHIFT)
    for level, x0, jump in zip(mixed, levels(True, 6, 5, **changes), levels(False, 6, 5, **changes), strict=True):
        assert torch.equal(level, torch.where(torch.tensor(few), x0, jump))
    part = draw_levels(config, 5, [2, 3], few[2:4], SHIFT)
    assert all(torch.equal(a, b[2:4]) for a, b in zip(part, mixed, strict=True))
    seeded = AdversarialStageConfig(target="two_samplers", seed=1, **changes)
    for other in (draw_levels(config, 6, range(6), few, SHIFT), draw_levels(seeded, 5, range(6), few, SHIFT)):
        assert not bool((other.sigma == mixed.sigma).any())


@pytest.mark.parametrize(
    ("few", "jump_steps"), [(True, 4), (False, 0), (False, 4), (False, 1000)], ids=["x0", "random", "few", "many"]
)
def test_rounded_levels_can_be_renoised(few, jump_steps):
    """As a bf16 transformer rounds them: what is shown is not below where the step ended, which is not pure noise."""
    config = AdversarialStageConfig(jump_steps=jump_steps, renoise_mean=-3.0, jump_renoise_mean=-3.0)
    drawn = draw_levels(config, 3, range(COUNT), [few] * COUNT, Shift(FLUX1, 4096))
    for dtype in (torch.float32, torch.bfloat16):
        sigma, end, seen, _ = (flow.seen_sigma(level, dtype) for level in drawn)
        assert bool((end <= seen).all()) and bool((end < 1).all()) and bool((end <= sigma).all())
        x = torch.zeros(COUNT, 1, 1, 1)
        assert bool(flow.renoise(x, end, seen, x + 1).isfinite().all())


# A shift that depends on the number of steps

# On both sides of where FLUX.2's shift stops depending on it.
PICTURES = [64, 4096, 4300, 4301, 9216]


def flux_2(few: bool, tokens: int, **changes) -> Levels:
    config = AdversarialStageConfig(**changes)
    return draw_levels(config, 3, range(COUNT), [few] * COUNT, Shift(FLUX2, tokens))


def flux_2_step_ends(sigma: Tensor, tokens: int, steps: int) -> Tensor:
    """As ``step_ends``: the shift is that of a sampler with so many steps, whatever the level was drawn by."""
    mu = compute_empirical_mu(tokens, steps)
    lower = (torch.sigmoid(torch.logit(sigma.double()) - mu) - 1 / steps).clamp_min(0)
    return torch.sigmoid(torch.logit(lower) + mu)


@pytest.mark.parametrize("tokens", PICTURES)
def test_flux_2s_levels_are_drawn_by_the_shift_of_a_sampler_of_the_base(tokens):
    drawn = flux_2(True, tokens, timestep_sampling="shifted", timestep_mean=0.4, timestep_std=0.8)
    logit = torch.logit(drawn.sigma.double()) - compute_empirical_mu(tokens, 50)
    inside = (drawn.sigma > 1e-3) & (drawn.sigma < 1 - 1e-3)
    assert inside.double().mean() > 0.995
    assert distance_to_uniform(normal_cdf((logit - 0.4) / 0.8)) < 1.95


@pytest.mark.parametrize("tokens", PICTURES)
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_flux_2s_steps_end_where_the_sampler_with_so_many_has_them(tokens, steps):
    few = flux_2(True, tokens, target_steps=steps, step_share=1.0, timestep_sampling="uniform")
    many = flux_2(False, tokens, jump_steps=steps, timestep_sampling="uniform")
    for drawn in (few, many):
        expected = flux_2_step_ends(drawn.sigma, tokens, steps)
        torch.testing.assert_close(drawn.end.double(), expected.clamp(max=0.995), rtol=0, atol=2e-6)
        assert 0.02 < (drawn.end == 0).double().mean() < 0.98


@pytest.mark.parametrize("tokens", PICTURES)
def test_the_grid_of_four_steps_is_flux_2s_own(tokens):
    """From each of its levels a step ends at the next one; with pictures of more than 4300 tokens it lies elsewhere."""
    config = AdversarialStageConfig(target_steps=4)
    grid = sampler_levels(config, Shift(FLUX2, tokens))
    evens = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    expected = torch.sigmoid(torch.logit(evens) + compute_empirical_mu(tokens, 4))
    torch.testing.assert_close(grid.double(), torch.cat([expected, torch.zeros(1).double()]), rtol=0, atol=1e-7)
    practised = draw_levels(config, 3, range(200), [True] * 200, Shift(FLUX2, tokens), from_noise=True)
    assert set(practised.sigma.tolist()) == set(grid[:-1].tolist())
    torch.testing.assert_close(
        flow.next_sigma(grid[1:-1], 4, FLUX2.mu(tokens, 4)), grid[2:], rtol=0, atol=2e-6
    )


def test_a_jump_of_random_length_knows_no_shift():
    ends = [flux_2(False, tokens, jump_steps=0, timestep_sampling="uniform").end for tokens in PICTURES]
    ends.append(levels(False, jump_steps=0, timestep_sampling="uniform").end)
    assert all(torch.equal(end, ends[0]) for end in ends) and bool(ends[0].isfinite().all())
