"""Picture sizes of equal area, and fitting a picture into one of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.families import PIXELS_PER_TOKEN

MAX_RESOLUTION = 2048
MAX_ASPECT = 4

Bucket = tuple[int, int]
"""(height, width) in pixels."""


def buckets(resolution: int, step: int) -> tuple[Bucket, ...]:
    """All sizes whose sides are multiples of ``step`` and whose area is the largest up to ``resolution`` squared.

    From the square to an aspect ratio of ``MAX_ASPECT``, in both orientations, sorted. ``resolution`` is in pixels,
    up to ``MAX_RESOLUTION``. Raises ``ValueError`` for a ``step`` that FLUX's latents cannot be packed with, and for
    a ``resolution`` out of range.
    """
    unit = PIXELS_PER_TOKEN
    if step < unit or step % unit:
        raise ValueError(f"bucket_step must be a multiple of {unit}, at least {unit}; got {step}.")
    if not step <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution must be from bucket_step ({step}) to {MAX_RESOLUTION}; got {resolution}.")
    square = resolution // step * step
    sizes = {(square, square)}
    shortest = max(step, math.ceil(resolution / math.isqrt(MAX_ASPECT) / step) * step)
    for short in range(shortest, square + 1, step):
        long = resolution**2 // short // step * step
        sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes))


def nearest(height: int, width: int, sizes: tuple[Bucket, ...]) -> Bucket:
    """The bucket whose aspect ratio is nearest to ``height`` : ``width`` in log space; of equals, the largest."""
    wanted = math.log(height / width)
    return min(sizes, key=lambda size: (round(abs(math.log(size[0] / size[1]) - wanted), 9), -size[0] * size[1], size))


def window(height: int, width: int, bucket: Bucket) -> tuple[int, int, int, int]:
    """The centred part (top, left, height, width) of a picture that has the bucket's aspect ratio, in whole pixels."""
    scale = max(bucket[0] / height, bucket[1] / width)
    part_height = min(height, max(1, round(bucket[0] / scale)))
    part_width = min(width, max(1, round(bucket[1] / scale)))
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """(c, H, W) in [0, 1] -> (c, height, width) in [0, 1], bicubic with antialiasing."""
    if picture.shape[1:] == (height, width):
        return picture.clone()
    resized = F.interpolate(picture[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0.0, 1.0)  # Bicubic overshoots at hard edges.


def fit(picture: Tensor, bucket: Bucket) -> Tensor:
    """(c, H, W) in [0, 1] -> (c, *bucket): the centred part of the bucket's aspect ratio, resized.

    Cropped before it is resized, so that a very long picture does not become enormous in between.
    """
    top, left, height, width = window(picture.shape[1], picture.shape[2], bucket)
    return resize(picture[:, top : top + height, left : left + width], *bucket)


def latent_mask(mask: Tensor, bucket: Bucket, factor: int) -> Tensor:
    """A mask (H, W) in [0, 1] that belongs to a picture in ``bucket`` -> (1, h, w): the mean over each latent cell.

    A cell is ``factor`` x ``factor`` pixels.
    """
    return F.avg_pool2d(fit(mask[None], bucket)[None], factor)[0].to(torch.float32)
