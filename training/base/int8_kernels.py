"""The product with an int8 weight, by the quickest of the libraries at hand that gives the right result.

The activations are rounded to int8 as well, a scale for each row of them, and the integers are multiplied and added
exactly. This is the one file that knows comfy-kitchen, which newer hosts have and whose kernels fuse all that.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from ..failure_words import reason
from .int8 import LARGEST, Int8Weight, quantised, rotated

# A modulation layer sees one row a picture: rounding that gains no time, and torch's kernel takes no fewer than 17.
FEW_ROWS = 16
# Of torch's kernel on a GPU.
_MULTIPLE = 8

log = logging.getLogger(__name__)


def product(x: Tensor, weight: Int8Weight, kernel: str) -> Tensor:
    """``x`` (..., inputs) times the transposed ``weight``: (..., out), in the type of ``x``.

    ``kernel``: one of ``KERNELS``, as ``best_kernel`` gives it. A few rows are multiplied without being rounded.
    """
    rows, (out, inputs) = x.numel() // x.shape[-1], weight.values.shape
    if rows <= FEW_ROWS or (kernel == "torch" and (out % _MULTIPLE or inputs % _MULTIPLE)):
        kernel = "none"
    return KERNELS[kernel](x, weight)


def _without(x: Tensor, weight: Int8Weight) -> Tensor:
    """Activations as they are. What int8 holds, bf16 holds, too: the scales are taken with the result."""
    x = rotated(x, weight.group) if weight.group else x
    return functional.linear(x, weight.values.to(x.dtype)) * weight.scales.to(x.dtype)


def _torch(x: Tensor, weight: Int8Weight) -> Tensor:
    x = rotated(x, weight.group) if weight.group else x
    rows = x.flatten(0, -2)
    scales = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-30) / LARGEST
    whole = torch._int_mm((rows / scales).round_().to(torch.int8), weight.values.t())
    return (whole * (scales * weight.scales)).to(x.dtype).unflatten(0, x.shape[:-1])


def _kitchen(x: Tensor, weight: Int8Weight) -> Tensor:
    rotation = {"convrot": True, "convrot_groupsize": weight.group} if weight.group else {}
    return _library().int8_linear(x, weight.values, weight.scales, out_dtype=x.dtype, **rotation)


@functools.cache
def _library() -> ModuleType:
    import comfy_kitchen

    return comfy_kitchen


KERNELS = {"comfy-kitchen": _kitchen, "torch": _torch, "none": _without}


@functools.cache
def best_kernel(device: torch.device, group: int) -> str:
    """The first of ``KERNELS`` that multiplies rightly on ``device`` with weights that are rotated in ``group``."""
    if device.type == "meta":
        # Nothing is right or wrong there; what is counted are the sizes, which are the same by all of them.
        return "torch"
    size = 2 * max(group, 32)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, size, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    rounded = quantised(weight, group)
    wanted = _without(x, rounded).float()
    for name in KERNELS:
        # On the CPU the library has no kernel of its own.
        if name == "comfy-kitchen" and device.type == "cpu":
            continue
        try:
            error = (KERNELS[name](x, rounded).float() - wanted).norm() / wanted.norm()
        # Whatever a library's kernel does on a card that it does not know: the next one is tried.
        except Exception as problem:
            log.debug("int8 products by %s do not work on %s: %s", name, device, reason(problem))
            continue
        if error < 0.03:
            log.info("int8 products on %s: %s.", device, "dequantised" if name == "none" else name)
            return name
        log.warning("int8 products by %s are %.0f%% off on %s, and are not used.", name, 100 * error, device)
    raise RuntimeError(f"int8 weights cannot be multiplied on {device}. Set precision to bf16.")
