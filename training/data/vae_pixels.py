"""Pixels as FLUX's VAEs take and give them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..base.families.latent_space import LatentSpace


def vae_input(pixels: Tensor, factor: int) -> Tensor:
    """(1, H, W, 3) in [0, 1] -> (1, 3, h, w) in [-1, 1], with sides that are multiples of ``factor``."""
    for dimension in (1, 2):
        size = pixels.shape[dimension]
        over = size % factor
        pixels = pixels.narrow(dimension, over // 2, size - over)
    return pixels.float().movedim(-1, 1) * 2.0 - 1.0


def pictures_of(decoded: Iterable[Tensor]) -> Tensor:
    """(1, 3, H, W) each, in [-1, 1] -> (n, H, W, 3) in [0, 1], on the CPU."""
    return torch.cat([((one.float() + 1) / 2).clamp(0, 1).movedim(1, -1).cpu() for one in decoded])


def check_channels(latents: Tensor, space: LatentSpace) -> None:
    if latents.ndim != 4 or latents.shape[1] != space.channels:
        raise ValueError(
            f"This VAE decodes latents (n, {space.channels}, h, w), got {tuple(latents.shape)}. A base with "
            "fewer latent channels needs the VAE that belongs to it."
        )
