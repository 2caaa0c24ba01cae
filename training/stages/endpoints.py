"""What the discriminator judges of the generator: from which level it jumps, to which, and at which it is shown.

``x0`` judges one-step estimates of the data and steps of the target sampler: it makes a LoRA for few sampling steps.
``jump`` judges one step of a sampler with K steps against the interpolant at the step's end (as in arXiv:2511.22475 the
flow map's endpoint), and leaves sampling with many steps intact. Each is one Euler step, to level 0 or to level r, and
is then brought from there to the level at which it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import draws, flow
from ..base.families.family import Shift
from ..config import AdversarialStageConfig
from ..lora.sampling_advice import FEW_STEPS

# Without any noise what tells a fake is seen at once, and with noise alone nothing is left to judge.
ADDED_NOISE = (0.02, 0.98)


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
    if config.target == "distilled":
        return ("x0",)
    if config.target == "target_steps":
        return ("x0",) if config.target_steps <= FEW_STEPS else ("jump",)
    return (config.target,)


def sampler_levels(config: AdversarialStageConfig, shift: Shift) -> Tensor:
    """Those of the sampler that is trained for, from 1 to 0, fp32: of one with many steps, those of ``FEW_STEPS``."""
    steps = min(config.target_steps, FEW_STEPS)
    return flow.sampling_sigmas(steps, shift.mu(steps)).float()


def draw_levels(
    config: AdversarialStageConfig,
    draw: int,
    positions: Sequence[int],
    few_step: Sequence[bool],
    shift: Shift,
    from_noise: bool = False,
) -> Levels:
    """The levels of the samples at ``positions``, fp32; ``few_step`` chooses x0 (True) or jump for each.

    ``from_noise``: the generator starts where the sampler does.
    """
    normal = draws.normals(config.seed, draw, positions, "sigma")
    uniform = draws.uniforms(config.seed, draw, positions, "sigma")
    if from_noise:
        starts = sampler_levels(config, shift)[:-1]
        sigma = starts[(uniform * len(starts)).long()]
    else:
        # One distribution for all: the flow loss shares these forwards, and on a sampler's few levels alone it would
        # leave the levels between them to drift (measured: pictures of little contrast at any number of steps).
        sigma = flow.draw_sigma(
            config.timestep_sampling, normal, uniform, config.timestep_mean, config.timestep_std, shift.training_mu
        )
    few = torch.tensor(list(few_step))
    ends = [ending(config, draw, positions, sigma, shift) for ending in (_x0_end, _jump_end)]
    end = torch.where(few, *ends)
    # bf16 rounds more up to 1, from where nothing can be renoised.
    end = end.clamp(max=0.995)
    if not config.renoise:
        # The discriminator is told the generator's level: an estimate from much noise is another kind of picture than
        # one from little.
        return Levels(sigma, end, end, sigma)
    mean = torch.where(few, config.renoise_mean, config.jump_renoise_mean)
    normal = draws.normals(config.seed, draw, positions, "level")
    added = torch.sigmoid(mean + config.renoise_std * normal).clamp(*ADDED_NOISE)
    seen = end + (1 - end) * added
    return Levels(sigma, end, seen, seen)


def _x0_end(
    config: AdversarialStageConfig, draw: int, positions: Sequence[int], sigma: Tensor, shift: Shift
) -> Tensor:
    """The data, or, for a share of the samples, the end of a step of the target sampler.

    With estimates alone, what one invents correlates with the noise it was made from, and Euler steps add it up:
    pictures get too much contrast. With steps alone they stay soft at any weight that keeps training stable.
    """
    step = draws.uniforms(config.seed, draw, positions, "step") < config.step_share
    steps = min(config.target_steps, FEW_STEPS)
    return torch.where(step, flow.next_sigma(sigma, steps, shift.mu(steps)), 0.0)


def _jump_end(
    config: AdversarialStageConfig, draw: int, positions: Sequence[int], sigma: Tensor, shift: Shift
) -> Tensor:
    """The end of a step of a sampler with ``jump_steps`` steps, or, for 0 of them, any lower level."""
    if config.jump_steps == 0:
        return sigma * draws.uniforms(config.seed, draw, positions, "step")
    return flow.next_sigma(sigma, config.jump_steps, shift.mu(config.jump_steps))
