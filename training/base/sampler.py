"""Sampling with FLUX's schedule, from fixed seeds: for previews and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import draws, flow
from .base_model import FluxBase
from .classifier_free import Prompt, guided_velocity
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
    cfg: float = 1.0,
    negative: Prompt | None = None,
    batch_size: int | None = None,
    solver: str = "euler",
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Pictures for one prompt, one for each seed: latents (len(seeds), C, height, width) in model space, fp32.

    C is ``base.latent_channels``; ``prompt_embeds`` (length, context_dim), ``pooled_prompt_embeds`` (pooled_dim,);
    ``height`` and ``width`` in latent pixels, whole tokens. At most ``batch_size`` pictures go through the base at
    once, all of them for ``None``. ``cfg``: see ``classifier_free``; other than 1 it takes two passes for each
    velocity, one of them for ``negative``, a prompt (length, context_dim) and (pooled_dim,). ``solver``: one of
    ``solvers.SOLVERS``, by the host's names. ``after_step`` is called after each velocity, ``solvers.evaluations`` of
    them for each batch; what it raises ends the sampling. The noise of a seed does not depend on ``steps`` nor on the
    other seeds.

    Raises ``ValueError`` for another solver, and for a ``cfg`` other than 1 without ``negative``.
    """
    if cfg != 1 and negative is None:
        raise ValueError(f"cfg is {cfg:g}, which takes a negative prompt to lead away from, and there is none.")
    device, shape, at_once = base.device, (base.latent_channels, height, width), batch_size or len(seeds)
    sigmas = flow.sampling_sigmas(steps, base.shift(height, width).mu(steps)).float().to(device)
    pictures = []
    for start in range(0, len(seeds), at_once):
        chosen = seeds[start : start + at_once]
        latents = torch.cat([draws.normals(seed, 0, [0], "sample", shape) for seed in chosen]).to(device)
        asked = (prompt_embeds, pooled_prompt_embeds)
        prompt, other = (_for_each(each, len(chosen), device) for each in (asked, negative or asked))

        def velocity(x: Tensor, sigma: Tensor, prompt: Prompt = prompt, other: Prompt = other) -> Tensor:
            found = guided_velocity(base, x, sigma.expand(len(x)), prompt, other, guidance, cfg)
            after_step()
            return found

        pictures.append(solve(solver, velocity, latents, sigmas))
    return torch.cat(pictures)


def _for_each(prompt: Prompt, count: int, device: torch.device) -> Prompt:
    """One prompt for each of ``count`` pictures."""
    embeds, pooled = prompt
    return embeds.to(device).expand(count, -1, -1), pooled.to(device).expand(count, -1)
