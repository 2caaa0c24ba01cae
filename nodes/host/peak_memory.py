"""The most of the card's memory that a stage holds at once."""

from __future__ import annotations

import comfy.model_management as memory
import torch


class PeakMemory:
    """Counts from the first ``read()`` on: before it, models of others may still have been there."""

    def __init__(self) -> None:
        self._counting = False

    def read(self) -> int | None:
        """Bytes; ``None`` at the first call, and on devices that do not count them."""
        device = memory.get_torch_device()
        if device.type not in ("cuda", "xpu"):
            return None
        counter = torch.get_device_module(device)
        if self._counting:
            return int(counter.max_memory_allocated(device))
        counter.reset_peak_memory_stats(device)
        self._counting = True
        return None
