"""Weights in int8 with one scale a row, rotated or not: as ComfyUI's ``int8_tensorwise`` files hold them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 127
# ConvRot's own, and that of the files in its format.
GROUP = 256


class Int8Weight(NamedTuple):
    """A linear layer's weight.

    ``values``: int8 (out, inputs). ``scales``: fp32 (out,), so that row i is ``scales[i] values[i]``. ``group``: the
    inputs are rotated in groups of so many (``rotated``), and what the layer takes has to be, too; 0 where they are
    not.
    """

    values: Tensor
    scales: Tensor
    group: int = 0


def quantised(weight: Tensor, group: int = 0) -> Int8Weight:
    """``weight`` (out, inputs), rounded to the nearest of 255 even steps a row.

    With a ``group`` the inputs are rotated before, which spreads outliers (ConvRot, arXiv:2512.03673).
    Raises ``ValueError`` where ``group`` is no power of 4 or does not divide the inputs.
    """
    weight = weight.float()
    if group:
        weight = rotated(weight, group)
    # A row of zeros has no largest value; any scale will do for it.
    scales = (weight.abs().amax(1) / LARGEST).clamp_min(1e-30)
    return Int8Weight((weight / scales[:, None]).round_().to(torch.int8), scales, group)


def dequantised(weight: Int8Weight, dtype: torch.dtype) -> Tensor:
    """The weight (out, inputs) in ``dtype``, rotated back."""
    values, scales, group = weight
    if not group:
        # What int8 holds, bf16 holds, too: only the product is rounded.
        return (values.to(torch.float32) * scales[:, None]).to(dtype)
    return rotated(values.to(torch.float32) * scales[:, None], group).to(dtype)


def rotated(x: Tensor, group: int) -> Tensor:
    """``x`` (..., inputs) with each ``group`` of its last places multiplied by the regular Hadamard matrix.

    The matrix is orthogonal and symmetric, so doing it twice changes nothing, and a product of two rotated factors is
    the product of the factors. Raises ``ValueError`` where ``group`` is no power of 4 or does not divide the inputs.
    """
    if x.shape[-1] % group:
        raise ValueError(f"{x.shape[-1]} inputs are no multiple of the group of {group} that is rotated at once.")
    return (x.unflatten(-1, (-1, group)) @ rotation(group, x.dtype, x.device)).flatten(-2)


def rotation(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (size, size) of ``rotated``. Raises ``ValueError`` where ``size`` is no power of 4."""
    return _hadamard(size, dtype, device)


@functools.lru_cache
def _hadamard(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Kronecker power of the regular 4 x 4 matrix (ConvRot, arXiv:2512.03673), its rows of length 1."""
    part = torch.ones(4, 4) - 2 * torch.eye(4).flip(0)
    whole = torch.ones(1, 1)
    while len(whole) < size:
        whole = torch.kron(whole, part)
    if len(whole) != size:
        raise ValueError(f"Groups of {size} cannot be rotated: choose a power of 4.")
    return (whole / size**0.5).to(device=device, dtype=dtype)
