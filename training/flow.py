"""Rectified flow, stated once: both stages, the sampler and the metrics call these functions.

Conventions, after Liu et al. 2022 (arXiv:2209.03003) and Esser et al. 2024 (arXiv:2403.03206): ``x0`` is data,
``noise`` is standard normal, ``sigma`` in [0, 1] is the share of noise, and the velocity is the derivative of
``x_t`` by ``sigma``. Latents are (batch, channels, height, width); a ``sigma`` is a (batch,) tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _per_sample(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_t = (1 - sigma) x0 + sigma noise`` (arXiv:2403.03206, eq. 13)."""
    s = _per_sample(sigma, x0)
    return (1 - s) * x0 + s * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """``dx_t/dsigma = noise - x0``, what the model is trained to predict."""
    return noise - x0


def x0_from_velocity(x_t: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The data that ``velocity`` points to from ``x_t``: ``x_t - sigma v``."""
    return x_t - _per_sample(sigma, x_t) * velocity


def noise_from_velocity(x_t: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The noise that ``velocity`` comes from: ``x_t + (1 - sigma) v``."""
    return x_t + (1 - _per_sample(sigma, x_t)) * velocity


def jump(x_t: Tensor, velocity: Tensor, sigma: Tensor, r: Tensor) -> Tensor:
    """One Euler step from level ``sigma`` to level ``r``: ``x_t - (sigma - r) v``; to ``r = 0`` it is ``x0``."""
    return x_t - _per_sample(sigma - r, x_t) * velocity


def renoise(x_r: Tensor, r: Tensor, s: Tensor, noise: Tensor) -> Tensor:
    """From level ``r`` to level ``s >= r`` with fresh ``noise``, exactly in law.

    ``x_s = k x_r + sqrt(s^2 - k^2 r^2) noise`` with ``k = (1 - s) / (1 - r)``: the mean becomes ``(1 - s) x0`` and
    the variances of the two independent noises add up to ``s^2``. ``r`` must be below 1.

    Raises ``ValueError`` where ``s < r`` or ``r >= 1``.
    """
    if bool((s < r).any()) or bool((r >= 1).any()):
        raise ValueError(f"renoise goes from r < 1 up to s >= r, got r={r.tolist()}, s={s.tolist()}.")
    k = (1 - s) / (1 - r)
    spread = (s.square() - (k * r).square()).clamp_min(0).sqrt()
    return _per_sample(k, x_r) * x_r + _per_sample(spread, x_r) * noise


def flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity for each sample (arXiv:2403.03206, eq. 13 and 16 with weight 1), (batch,).

    ``mask`` as of ``velocity_error``.
    """
    return velocity_error(velocity, velocity_target(x0, noise), mask)


def velocity_error(velocity: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two velocities for each sample, (batch,).

    ``mask`` (batch, 1, h, w) in [0, 1] weighs the places of a picture; the mean is over the weighted area. A mask
    that is zero everywhere gives a loss of zero.
    """
    error = (velocity - target).square().mean(1, keepdim=True)
    if mask is None:
        return error.flatten(1).mean(1)
    area = mask.flatten(1).sum(1)
    return (error * mask).flatten(1).sum(1) / area.clamp_min(1e-6)


def resolution_mu(
    tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """FLUX.1's shift parameter for ``tokens`` packed tokens: a line through (256, 0.5) and (4096, 1.15)."""
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return base_shift + slope * (tokens - base_tokens)


def shift_sigma(sigma: Tensor, mu: float) -> Tensor:
    """``e^mu sigma / (1 + (e^mu - 1) sigma)``: more noise for more tokens (arXiv:2403.03206, eq. 23)."""
    scale = math.exp(mu)
    return scale * sigma / (1 + (scale - 1) * sigma)


def sampling_sigmas(steps: int, mu: float) -> Tensor:
    """FLUX's Euler schedule: ``steps + 1`` values from 1 down to 0, shifted by ``mu``, in float64."""
    return torch.cat(
        [
            shift_sigma(torch.linspace(1, 1 / steps, steps, dtype=torch.float64), mu),
            torch.zeros(1, dtype=torch.float64),
        ]
    )


def next_sigma(sigma: Tensor, steps: float, mu: float) -> Tensor:
    """Where a step of the schedule of ``sampling_sigmas`` ends that starts at ``sigma``, which need be no level of it.

    The levels are even before they are shifted, so a step is ``1 / steps`` there. It ends at 0 at the latest.
    """
    return shift_sigma((shift_sigma(sigma, -mu) - 1 / steps).clamp_min(0), mu)


def draw_sigma(sampling: str, normal: Tensor, uniform: Tensor, mean: float, std: float, mu: float) -> Tensor:
    """Noise levels from standard draws (one a sample), each strictly inside (0, 1).

    ``sampling``: ``uniform``; ``logit_normal``, ``sigmoid(mean + std n)``; ``sigmoid``, the same with mean 0;
    ``shifted``, logit-normal and then shifted by ``mu``.

    Raises ``ValueError`` for another name.
    """
    if sampling == "uniform":
        sigma = uniform
    elif sampling == "sigmoid":
        sigma = torch.sigmoid(std * normal)
    elif sampling in ("logit_normal", "shifted"):
        sigma = torch.sigmoid(mean + std * normal)
    else:
        raise ValueError(f"Unknown timestep sampling {sampling!r}.")
    if sampling == "shifted":
        sigma = shift_sigma(sigma, mu)
    # At 0 the target has no noise to learn from and at 1 renoising divides by zero.
    return sigma.clamp(1e-3, 1 - 1e-3)


def seen_sigma(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """The sigma that a FLUX transformer computing in ``dtype`` sees when it is handed ``sigma``, in fp32.

    The transformer casts sigma to its own type and multiplies by 1000 there; in bf16 that moves it by up to 0.004.
    ``x_t`` has to be built with what the transformer sees. The result is a value that the transformer sees as itself.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return sigma
    return (sigma.to(dtype) * 1000).float() / 1000
