"""A model of many blocks whose weights lie where there is room, and come to the device one block at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

logger = logging.getLogger(__name__)

# A block of T5-XXL in fp32, what it computes, and the card's losses.
WORKING = 2 << 30


class _Visitor(nn.Module):
    """A block that computes in fp32 on ``device``, and is there for as long as it computes."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.block = block
        self._device = device
        # What some versions of transformers ask a block of Qwen3 for.
        if hasattr(block, "attention_type"):
            self.attention_type = block.attention_type

    def forward(self, *inputs: Any, **options: Any) -> Any:
        # In two steps: asked for both, torch enlarges on the CPU, and twice the bytes are copied.
        visiting = {name: weight.to(self._device).float() for name, weight in self.block.named_parameters()}
        return functional_call(self.block, visiting, inputs, options)


def visitors(blocks: Iterable[nn.Module], device: torch.device) -> nn.ModuleList:
    """``blocks`` that compute in fp32 on ``device``, whatever type and place their weights are kept in.

    One block at a time is copied there and enlarged: of T5-XXL 0.8 GB, where all of it would be 19 GB.
    """
    return nn.ModuleList(_Visitor(block, device) for block in blocks)


def keep_on_card(blocks: nn.ModuleList, name: str, device: torch.device, free: int, working: int = WORKING) -> None:
    """Move ``visitors`` to ``device`` as they are kept where its ``free`` bytes suffice; else say that they are not.

    ``name``: the model in words. ``working``: bytes that computing takes beside them. What is computed is the same in
    both places. Of T5-XXL in bf16 the blocks are 9.4 GB.
    """
    needed = sum(weight.nbytes for weight in blocks.parameters()) + working
    if free >= needed:
        blocks.to(device)
        return
    logger.warning(
        "%s stays in ordinary memory and comes to the card block by block, anew for each caption, since it needs "
        "%.1f GB there and %.1f GB are free. The encodings are the same; they take longer.",
        name,
        needed / 1e9,
        free / 1e9,
    )
