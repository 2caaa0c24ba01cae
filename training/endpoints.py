"""What the discriminator judges of the generator: from which level it jumps, to which, and at which it is shown.

``x0`` judges the one-step estimate of the data: it makes a LoRA for few sampling steps. ``jump`` judges one step of a
sampler with K steps against the interpolant at the step's end (as in arXiv:2511.22475 the flow map's endpoint), and
leaves sampling with many steps intact. Both are one Euler step, to level 0 or to level r, so both share their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import draws, flow
from .config import AdversarialStageConfig

FEW_STEPS = 8
# Share of the x0 samples that start at a level of the target sampler's own grid, its first one, pure noise, included.
GRID_SHARE = 0.3
# Near 0 the noise no longer hides what tells an estimate at once, near 1 nothing is left to judge.
SEEN_LEVELS = (0.02, 0.98)


class Levels(NamedTuple):
    """Noise levels of B samples, each (B,): the generator starts at ``sigma`` and steps to ``end``; the discriminator
    is shown both sides at ``seen >= end`` and is told ``told``."""

    sigma: Tensor
    end: Tensor
    seen: Tensor
    told: Tensor


def judged_endpoints(config: AdversarialStageConfig) -> tuple[str, ...]:
    """Which endpoints this stage judges: ``x0``, ``jump``, or both."""
    if config.target == "two_samplers":
        return ("x0", "jump")
    if config.target == "target_steps":
        return ("x0",) if config.target_steps <= FEW_STEPS else ("jump",)
    return (config.target,)


def draw_levels(
    config: AdversarialStageConfig, draw: int, positions: Sequence[int], few_step: Sequence[bool], tokens: int
) -> Levels:
    """The levels of the samples at ``positions``, fp32; ``few_step`` chooses x0 (True) or jump for each."""
    normal = draws.normals(config.seed, draw, positions, "sigma")
    uniform = draws.uniforms(config.seed, draw, positions, "sigma")
    free = flow.draw_sigma(
        config.timestep_sampling, normal, uniform, config.timestep_mean, config.timestep_std, tokens
    )
    place = draws.uniforms(config.seed, draw, positions, "grid")
    x0 = _x0_levels(config, draw, positions, free, place, tokens)
    jump = _jump_levels(config, free, place, tokens)
    few = torch.tensor(list(few_step))
    return Levels(*(torch.where(few, a, b) for a, b in zip(x0, jump, strict=True)))


import os
GRID_SHARE=float(os.environ.get("GS",".3"))
GJ=os.environ.get("GJ","1")=="1"
def _x0_levels(
    config: AdversarialStageConfig, draw: int, positions: Sequence[int], free: Tensor, place: Tensor, tokens: int
) -> Levels:
    grid = flow.sampling_sigmas(min(config.target_steps, FEW_STEPS), tokens).float()
    step = (place * (len(grid) - 1)).long()
    on_grid = draws.uniforms(config.seed, draw, positions, "on grid") < GRID_SHARE
    sigma = torch.where(on_grid, grid[step].clamp(max=1 - 1e-3), free)
    end = torch.where(on_grid, grid[step + 1] if GJ else torch.zeros_like(sigma), torch.zeros_like(sigma))
    if not config.renoise:
        return Levels(sigma, end, end, sigma)
    normal = draws.normals(config.seed, draw, positions, "level")
    lo, hi = SEEN_LEVELS
    seen = torch.sigmoid(config.renoise_mean + config.renoise_std * normal).clamp(lo, hi)
    seen = end + (1 - end) * seen
    return Levels(sigma, end, seen, seen)


def _jump_levels(config: AdversarialStageConfig, free: Tensor, place: Tensor, tokens: int) -> Levels:
    if config.jump_steps == 0:
        sigma, end = free, free * place
    else:
        grid = flow.sampling_sigmas(config.jump_steps, tokens).float()
        step = (place * config.jump_steps).long()
        sigma, end = grid[step].clamp(max=1 - 1e-3), grid[step + 1]
    return Levels(sigma, end, end, end)
