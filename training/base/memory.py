"""How much memory there is for a base and what is computed with it."""

from __future__ import annotations

import psutil
import torch

# Of what is free, what can be counted on: an allocator cannot fill the last gaps.
USABLE = 0.95


def free_bytes(device: torch.device | str) -> int:
    """Bytes on ``device`` that nobody holds, or torch for nothing.

    On the CPU that is the computer's memory, as everywhere but on cards whose memory can be asked for.
    """
    device = torch.device(device)
    if device.type not in ("cuda", "xpu"):
        return psutil.virtual_memory().available
    module = torch.get_device_module(device)
    free, _ = module.mem_get_info(device)
    kept = module.memory_reserved(device) - module.memory_allocated(device)
    return free + kept
