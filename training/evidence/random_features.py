"""A feature space that no discriminator of this pack uses, so that none can have learned to please it.

Statistics of random filters are enough to describe a texture (arXiv:1606.00021), and they need nothing but latents:
no decoder, no download.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SIDE = 4
_WIDTHS = (16, 16, 8)
_SLOPE = 0.2
_BATCH = 256
# Where the real latents do not vary at all, any deviation counts as a large one, but stays finite.
_SMALLEST_STD = 1e-6


def _orthogonal(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    """(outputs, inputs, 3, 3) kernels, orthonormal as rows where inputs * 9 >= outputs, else as columns."""
    rows, columns = outputs, inputs * 9
    normal = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    # The sign of each direction is LAPACK's choice; with R's diagonal made positive it depends on the seed alone.
    q = q * r.diagonal().sign()
    return (q if rows > columns else q.t()).reshape(outputs, inputs, 3, 3).float()


def _pooled(features: Tensor) -> Tensor:
    """Mean and standard deviation over places: (n, k, h, w) to (n, 2 k)."""
    flat = features.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)


@torch.no_grad()
def random_features(latents: Tensor, *, seed: int = 0, batch: int = _BATCH) -> Tensor:
    """80 statistics a picture of a fixed random net: (n, c, h, w) to (n, 80), fp32, on the CPU.

    Two 3x3 convolutions of 16 channels at the latents' own scale, one of 8 at half of it, each followed by
    LeakyReLU(0.2) and read as its channels' mean and standard deviation over places. The pictures are mirrored at their
    edges, so that a border looks like texture. The weights depend on ``seed`` and ``c`` only.

    The channels should come with mean 0 and unit variance, as ``FeatureSpace`` sees to: a channel of large variance
    would drown the others, and a large mean would leave the activations on one side of their kink. ``batch`` pictures
    are computed at once. Raises ``ValueError`` unless h and w are at least 4.
    """
    if latents.ndim != 4 or min(latents.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"latents must have the shape (n, channels, height, width) with sides of at least {SMALLEST_SIDE}, "
            f"got {tuple(latents.shape)}."
        )
    generator = torch.Generator().manual_seed(seed)
    inputs = (latents.shape[1], *_WIDTHS[:-1])
    kernels = [_orthogonal(width, c, generator) for width, c in zip(_WIDTHS, inputs, strict=True)]
    rows = []
    for x in latents.float().split(batch):
        parts = []
        for layer, kernel in enumerate(kernels):
            if layer == len(kernels) - 1:
                x = F.avg_pool2d(x, 2)
            x = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel), _SLOPE)
            parts.append(_pooled(x))
        rows.append(torch.cat(parts, 1))
    return torch.cat(rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureSpace:
    """Random features in units of the real latents it was fitted to: call it with latents (n, c, h, w)."""

    channel_mean: Tensor
    """(c,) mean of each channel over the real latents, fp64."""
    channel_std: Tensor
    """(c,) standard deviation of each channel over the real latents and places, fp64, at least 1e-6."""
    feature_mean: Tensor
    """(80,) mean of each feature over the real latents, fp64."""
    feature_std: Tensor
    """(80,) standard deviation of each feature from one real latent to the next, fp64, at least 1e-6."""
    seed: int
    """Seed of the random net."""

    @classmethod
    def fit(cls, real: Tensor, *, seed: int = 0) -> FeatureSpace:
        """The space in which the features of ``real`` (n, c, h, w) have mean 0 and standard deviation 1.

        Raises ``ValueError`` for fewer than 2 latents, or sides below 4.
        """
        if real.ndim != 4 or len(real) < 2:
            raise ValueError(
                "A feature space is fitted to at least 2 latents, shape (n, channels, height, width), "
                f"got {tuple(real.shape)}."
            )
        channels = real.double().transpose(0, 1).flatten(1)
        space = cls(
            channel_mean=channels.mean(1),
            channel_std=channels.std(1).clamp_min(_SMALLEST_STD),
            feature_mean=torch.zeros(1, dtype=torch.float64),
            feature_std=torch.ones(1, dtype=torch.float64),
            seed=seed,
        )
        features = space(real)
        return cls(
            channel_mean=space.channel_mean,
            channel_std=space.channel_std,
            feature_mean=features.mean(0),
            feature_std=features.std(0).clamp_min(_SMALLEST_STD),
            seed=seed,
        )

    def standardised(self, latents: Tensor) -> Tensor:
        """``latents`` (n, c, h, w) with each channel in units of the real ones, fp64.

        Raises ``ValueError`` for another number of channels than the space was fitted to.
        """
        if latents.ndim != 4 or latents.shape[1] != len(self.channel_mean):
            raise ValueError(
                f"This feature space was fitted to latents of shape (n, {len(self.channel_mean)}, height, width), "
                f"got {tuple(latents.shape)}."
            )
        return (latents.double() - self.channel_mean[:, None, None]) / self.channel_std[:, None, None]

    def __call__(self, latents: Tensor) -> Tensor:
        """Standardised features of ``latents`` (n, c, h, w), shape (n, 80), fp64. Raises as ``standardised`` does."""
        features = random_features(self.standardised(latents), seed=self.seed).double()
        return (features - self.feature_mean) / self.feature_std
