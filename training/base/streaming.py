"""Blocks of the frozen base that stay in ordinary memory, and come to the device each time they compute."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.tensor import DTensor

from .base_model import FluxBase, nothing_kept
from .kept_outputs import KeptOutputs
from .ring import Ring
from .spread import spread

_STREAMERS: weakref.WeakSet[Streamer] = weakref.WeakSet()


class Streamer:
    """The streamed blocks of one base, by ``stream``.

    ``blocks``: which they are, as indices into ``base.blocks``. ``ring``: where they pass through.

    Their modulation layers, 27 % of FLUX.1, take one vector a sample. So what these gave is kept where the backward
    pass computes a block anew, 2 MiB a sample for all of FLUX.1, and their weights are not brought again for it. An
    adapter on them adds to that. Compiled code cannot leave them out, and has whole blocks.
    """

    def __init__(self, base: FluxBase, blocks: tuple[int, ...], ring: Ring) -> None:
        self.base, self.blocks, self.ring = base, blocks, ring
        self._numbers = {base.blocks[index]: number for number, index in enumerate(blocks)}
        # Of the block that is computed anew without its modulation layers.
        self._in_part: int | None = None
        base.keeping = self._keeping
        self._hooks = [
            block.register_forward_pre_hook(partial(self._before, number)) for block, number in self._numbers.items()
        ]
        _STREAMERS.add(self)

    def release(self) -> None:
        """End the streaming and give back all that it holds on the device.

        The streamed blocks then lie in ordinary memory. The base computes again once it is moved to one device as a
        whole, or streamed anew.
        """
        for hook in self._hooks:
            hook.remove()
        self.base.keeping = nothing_kept
        self.ring.release()
        _STREAMERS.discard(self)

    def _before(self, number: int, block: nn.Module, arguments: tuple[Any, ...]) -> None:
        # Autograd would refuse the backward pass too, but only after a whole step and in words for nobody.
        if torch.is_grad_enabled() and self.base.checkpointing != "blocks":
            raise ValueError(
                "Blocks of the base are streamed, so each is on the device only while it computes. Training then needs "
                "gradient_checkpointing: turn it on, or stream nothing."
            )
        self.ring.fetch(number, whole=number != self._in_part)

    def _keeping(
        self, block: nn.Module, computing: AbstractContextManager
    ) -> tuple[AbstractContextManager, AbstractContextManager]:
        number = self._numbers.get(block)
        if number is None or self.base.compiled:
            return nothing_kept(block, computing)
        kept = KeptOutputs(self.ring.last[number])
        return kept.noting(), self._anew(number, kept, computing)

    @contextmanager
    def _anew(self, number: int, kept: KeptOutputs, computing: AbstractContextManager) -> Iterator[None]:
        with computing:
            # A streamer that was released meanwhile brings nothing, and has left the base its weights.
            if not kept.complete or streamer_of(self.base) is not self:
                yield
                return
            self._in_part = number
            try:
                with kept.handing_out(), self.ring.without_last(number):
                    yield
            finally:
                self._in_part = None


def stream(base: FluxBase, device: torch.device | str, share: float, slots: int = 2) -> Streamer:
    """Move ``base`` to ``device`` but for a ``share`` of its blocks, which pass through ``slots`` slots there.

    ``base``: on the CPU, so that the device never has to hold the whole. ``share``: in [0, 1]; the blocks, to the
    nearest whole number, are spread evenly over the depth, so that copies are, too. ``slots``: with 2 a block is copied
    while another one computes; 1 takes half the memory. A slot is as large as the largest block that passes through it.
    What is trained, such as an adapter, stays on the device.

    Results are those of a base that is there as a whole, bit for bit. Training needs ``base.checkpointing``
    "blocks": each is fetched anew for the backward pass.

    Raises ``ValueError`` where ``share`` or ``slots`` is out of range, for a base that is streamed already, and for one
    that is split over ranks.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The share of blocks to stream must be from 0 to 1, got {share}.")
    if slots < 1:
        raise ValueError(f"Streaming needs 1 slot or more, got {slots}.")
    if streamer_of(base) is not None:
        raise ValueError("The base is streamed already. Release its streamer first.")
    if any(isinstance(parameter, DTensor) for parameter in base.transformer.parameters()):
        raise ValueError("The base is split over several GPUs (shard). Either split it or stream its blocks, not both.")
    # A tensor that is made in inference mode has no version counter, by which wrong gradients are noticed.
    with torch.inference_mode(False), torch.no_grad():
        # Told apart as tensors tell it: "cuda" is "cuda:0" there.
        device = torch.empty(0, device=device).device
        chosen = spread(len(base.blocks), share)
        blocks = [base.blocks[index] for index in chosen]
        ring = Ring(blocks, device, slots, last=[_modulation(base, block) for block in blocks])
        # What is streamed is there already.
        base.transformer.to(device)
    base.device = device
    return Streamer(base, chosen, ring)


def streamer_of(base: FluxBase) -> Streamer | None:
    """What streams blocks of ``base``, until it is released."""
    return next((streamer for streamer in _STREAMERS if streamer.base is base), None)


def _modulation(base: FluxBase, block: nn.Module) -> list[nn.Module]:
    """Its frozen modulation layers, below the adapter's where there are some."""
    layers = base.family.modulation_layers(block)
    return [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers]
