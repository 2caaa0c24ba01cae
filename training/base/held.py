"""How a base lies in memory and computes there, in a sentence for the user."""

from __future__ import annotations

import torch

from .base_model import FluxBase
from .footprint import told
from .frozen_linear import FrozenLinear
from .streaming import Streamer

_KERNELS = {
    "comfy-kitchen": "by comfy-kitchen's kernels",
    "torch": "by torch._int_mm",
    "none": "with dequantised weights, since no 8-bit kernel works here",
}


def how_held(base: FluxBase, streamer: Streamer | None) -> str:
    """The number format, the kernel of its products, and how streamed blocks lie; "" where there is nothing to say."""
    kernels = {module.kernel for module in base.transformer.modules() if isinstance(module, FrozenLinear)}
    told = []
    if kernels:
        by = " and ".join(_KERNELS[kernel] for kernel in sorted(kernels))
        told.append(f"The base is held in {base.reference.precision} and multiplied {by}")
    if streamer is not None and streamer.blocks:
        ring = streamer.ring
        lie = _lie(ring.device, ring.host_bytes, ring.locked_bytes)
        told.append(f"{len(streamer.blocks)} of {len(base.blocks)} blocks are streamed, {lie}")
    return f"{'; '.join(told)}." if told else ""


def _lie(device: torch.device, held: int, locked: int) -> str:
    size = told(held)
    if device.type != "cuda":
        return f"{size} in ordinary memory"
    if locked == held:
        return f"{size} in pinned memory"
    return (
        f"{size} in ordinary memory, of which the system lets only {told(locked)} be pinned, so that copies of "
        "the rest are slow: close other programs, raise the limit of locked memory (ulimit -l), or lower streamed_share"
    )
