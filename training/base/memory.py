"""How much memory there is for a base and what is computed with it."""

from __future__ import annotations

import psutil
import torch

# Of what is free: an allocator cannot fill the last gaps.
USABLE = 0.95


def usable_bytes(device: torch.device | str) -> int:
    """Bytes that can be filled on ``device``: what nobody holds there, and what torch holds for nothing.

    On the CPU that is the computer's memory, as everywhere but on cards whose memory can be asked for.
    """
    device = torch.device(device)
    if device.type not in ("cuda", "xpu"):
        return int(USABLE * ordinary_bytes())
    module = torch.get_device_module(device)
    free, _ = module.mem_get_info(device)
    kept = module.memory_reserved(device) - module.memory_allocated(device)
    return int(USABLE * (free + kept))


def ordinary_bytes() -> int:
    """Bytes of the computer's own memory that can be had without anything being moved out to a disk."""
    return psutil.virtual_memory().available
