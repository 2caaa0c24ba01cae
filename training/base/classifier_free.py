"""Classifier-free guidance: a prompt's velocity led away from that of a negative prompt.

Ho and Salimans 2022 (arXiv:2207.12598), as samplers of FLUX count it: ``v = v(negative) + cfg (v(prompt) -
v(negative))``. At ``cfg`` 1 the negative prompt has no part in it. A guidance embedding, as FLUX.1-dev has one, is an
input of the model and something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base_model import FluxBase

# Embeddings (n, L, D) and pooled ones (n, P), or (L, D) and (P,) of one prompt.
Prompt = tuple[Tensor, Tensor]


def passes(cfg: float) -> int:
    """How many passes through the base one velocity takes."""
    return 1 if cfg == 1 else 2


def guided_velocity(
    base: FluxBase, x_t: Tensor, sigma: Tensor, prompt: Prompt, negative: Prompt, guidance: float, cfg: float
) -> Tensor:
    """The guided velocity (n, C, h, w), in fp32: see above, and ``FluxBase.velocity`` for the arguments.

    Both prompts go through the base in one batch where they are of one length, else one after the other, since the
    base attends to whatever a shorter one would be filled up with. ``negative`` is not looked at where ``cfg`` is 1.
    """
    if cfg == 1:
        return base.velocity(x_t, sigma, *prompt, guidance)
    if prompt[0].shape[1] == negative[0].shape[1]:
        both = [torch.cat(parts) for parts in ((x_t, x_t), (sigma, sigma), *zip(prompt, negative, strict=True))]
        wanted, unwanted = base.velocity(*both, guidance).chunk(2)
    else:
        wanted, unwanted = (base.velocity(x_t, sigma, *each, guidance) for each in (prompt, negative))
    return unwanted + cfg * (wanted - unwanted)
