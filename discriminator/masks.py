"""Masks of pictures where verdicts are given: what each place of a logit map counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def place_weights(mask: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """``mask`` (B, 1, h, w) in [0, 1] at the resolution of each of ``maps`` (B, 1, h', w'), with mean 1 a sample.

    A place weighs the mean of the mask over its part of the picture. As a sample's weights average to 1, a mean of
    weighted values is the mean over the sample's weighted area, and a mask of ones leaves every bit of it as it was.
    A mask that is 0 everywhere weighs nothing.
    """
    weights = []
    for logits in maps:
        small = F.interpolate(mask, size=logits.shape[2:], mode="area")
        weights.append(small / small.mean((2, 3), keepdim=True).clamp_min(1e-6))
    return weights


def weighed(maps: Sequence[Tensor], mask: Tensor | None) -> Sequence[Tensor]:
    """``maps``, each place times its weight; as they are without a mask."""
    if mask is None:
        return maps
    return [each * weight.to(each) for each, weight in zip(maps, place_weights(mask, maps), strict=True)]


def inside(mask: Tensor) -> Tensor:
    """Where ``mask`` (B, 1, h, w) is above 0, bool: the places that a generator answers for."""
    return mask > 0


def share_of_highest(mask: Tensor) -> Tensor:
    """``mask`` (B, 1, h, w), each sample's divided by its highest value: what a gradient at each place counts."""
    return mask / mask.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(mask.dtype).tiny)
