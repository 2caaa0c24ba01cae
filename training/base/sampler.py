"""Sampling with FLUX's schedule, from fixed seeds: for previews and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import draws, flow
from .base_model import FluxBase
from .solvers import solve


@torch.no_grad()
def sample(
    base: FluxBase,
    prompt_embeds: Tensor,
    pooled_prompt_embeds: Tensor,
    *,
    height: int,
    width: int,
    steps: int,
    seeds: Sequence[int],
    guidance: float,
    batch_size: int | None = None,
    solver: str = "euler",
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Pictures for one prompt, one for each seed: latents (len(seeds), C, height, width) in model space, fp32.

    C is ``base.latent_channels``; ``prompt_embeds`` (length, context_dim), ``pooled_prompt_embeds`` (pooled_dim,);
    ``height`` and ``width`` in latent pixels, whole tokens. At most ``batch_size`` pictures go through the base at
    once, all of them for ``None``. ``solver``: one of ``solvers.SOLVERS``, by the host's names. ``after_step`` is
    called after each evaluation of the base, ``solvers.evaluations`` of them for each batch; what it raises ends the
    sampling. The noise of a seed does not depend on ``steps`` nor on the other seeds.

    Raises ``ValueError`` for another solver.
    """
    device, shape, at_once = base.device, (base.latent_channels, height, width), batch_size or len(seeds)
    sigmas = flow.sampling_sigmas(steps, base.shift(height, width).mu(steps)).float().to(device)
    pictures = []
    for start in range(0, len(seeds), at_once):
        chosen = seeds[start : start + at_once]
        latents = torch.cat([draws.normals(seed, 0, [0], "sample", shape) for seed in chosen]).to(device)
        embeds = prompt_embeds.to(device).expand(len(chosen), -1, -1)
        pooled = pooled_prompt_embeds.to(device).expand(len(chosen), -1)

        def velocity(x: Tensor, sigma: Tensor, embeds: Tensor = embeds, pooled: Tensor = pooled) -> Tensor:
            found = base.velocity(x, sigma.expand(len(x)), embeds, pooled, guidance)
            after_step()
            return found

        pictures.append(solve(solver, velocity, latents, sigmas))
    return torch.cat(pictures)
