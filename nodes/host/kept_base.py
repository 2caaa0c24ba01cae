"""The base that stays loaded between nodes and queues, as one of the host's models: it goes when the host says so."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management as memory
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...training.base.base_shelf import BaseShelf

log = logging.getLogger(__name__)
shelf = BaseShelf()


class FluxDuelBase(nn.Module):
    """Stands for the kept base, and has the name by which the host's log calls it."""


class _Listed(ModelPatcher):
    """The kept base as the host sees it: a model that is on the device as a whole, or goes as a whole.

    The host's plain kind, also where it has dynamic VRAM: a base that trains is not the host's to page.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(FluxDuelBase(), load_device=device, offload_device=torch.device("cpu"))
        self.model.device = device
        self.in_use = False

    def tell_size(self, size: int) -> None:
        """``size``: bytes on the device."""
        self.size = self.model.model_loaded_weight_memory = size

    def partially_load(self, *_: Any, **__: Any) -> int:
        return 0

    def partially_unload(self, *_: Any, **__: Any) -> int:
        return 0

    def detach(self, *_: Any, **__: Any) -> nn.Module:
        # Not into ordinary memory: the file's pages may be there already, and the text encoders need the rest.
        if _listed is self and not self.in_use:
            shelf.clear()
            log.info("FluxDuel's base is unloaded.")
        return self.model


_listed: _Listed | None = None


def withhold() -> None:
    """From here on the host's unloading does not touch the kept base, until ``keep``."""
    if _listed is not None:
        _listed.in_use = True


def keep() -> None:
    """List the kept base with the host, or drop it where memory does not allow to keep it (``may_stay``)."""
    global _listed
    _listed = None
    sizes, device = shelf.sizes(), memory.get_torch_device()
    if not sizes:
        return
    if not may_stay(sizes.get(torch.device("cpu"), 0)):
        shelf.clear()
        return
    _listed = _Listed(device)
    memory.load_models_gpu([_listed])
    # Only now: what is there already needs no room, for which newer hosts would give up pinned memory of their models.
    _listed.tell_size(sum(size for place, size in sizes.items() if place.type == device.type))


def may_stay(in_ordinary_memory: int) -> bool:
    """Whether a base may be kept, of which so many bytes are not on the card, as those of streamed blocks.

    Not with smart memory off, nor where no model stays on the card (``--novram``), nor where less ordinary memory is
    free than it takes: the host does not watch over that.
    """
    if memory.DISABLE_SMART_MEMORY or memory.vram_state == memory.VRAMState.NO_VRAM:
        return False
    return in_ordinary_memory <= memory.get_free_memory(torch.device("cpu"))
