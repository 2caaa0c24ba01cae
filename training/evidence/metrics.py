"""Measurements on held-out data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import draws, flow
from ..base.base_model import FluxBase
from ..data.batches import held_out_batches
from ..data.real_latents import RealLatents

# Midpoints of four equal parts of (0, 1): the same levels for every LoRA, so that runs can be compared.
HELD_OUT_SIGMAS = (0.125, 0.375, 0.625, 0.875)
# Pictures that a measurement within a run looks at: with one noise for all states, their differences are steady long
# before the loss itself is, and each picture more costs as much as training on it does.
MOST_PICTURES = 16


@torch.no_grad()
def held_out_flow_loss(
    base: FluxBase,
    data: RealLatents,
    guidance: float,
    *,
    batch_size: int,
    most: int = MOST_PICTURES,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Mean flow loss over the held-out images at fixed levels and fixed noise; NaN where none is held out.

    Of more than ``most`` images that many are drawn, always the same. At most ``batch_size`` of them go through the
    base at once, on which the result depends by rounding alone.

    The same numbers are drawn each time, so a difference between two calls is a difference between two LoRAs.
    ``after_step`` is called after each evaluation of the model; what it raises ends the measurement.
    """
    losses = []
    for batch in held_out_batches(data, batch_size, most=most):
        batch = batch.to(base.device)
        noise = draws.normals(0, 0, batch.positions, "held-out", batch.x0.shape[1:]).to(batch.x0)
        for level in HELD_OUT_SIGMAS:
            sigma = base.seen_sigma(torch.full((len(batch.names),), level)).to(batch.x0)
            x_t = flow.interpolate(batch.x0, noise, sigma)
            velocity = base.velocity(x_t, sigma, batch.prompt_embeds, batch.pooled_prompt_embeds, guidance)
            losses.append(flow.flow_loss(velocity, batch.x0, noise, batch.mask))
            after_step()
    return torch.cat(losses).mean().item() if losses else float("nan")
