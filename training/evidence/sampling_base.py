"""The base that pictures are sampled with: in a number format, and as much of it streamed, as the device asks for."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple, TypedDict

import torch

from ..base.base_model import BaseLoader, BaseReference, FluxBase, empty_base, load_base
from ..base.base_shelf import kept_bytes
from ..base.footprint import Bytes, Counted, FlashAttention, weight_bytes
from ..base.memory import USABLE, free_bytes
from ..base.streaming import stream
from ..config import AUTO, AUTOMATIC
from ..lora.adapter import FluxLoRA

log = logging.getLogger(__name__)

# The adapter's part of a pass comes on top of what is counted without it: where a layer's output is widest, another of
# its size. At the models' true widths that is at most 0.36 (FLUX.2 dev, layers of the MLP), whatever the rank.
ADAPTED = 1.4
STEP = 0.05


class Held(NamedTuple):
    """``precision``: one of ``formats.PRECISIONS``; ``streamed_share``: of the blocks, in [0, 1]."""

    precision: str
    streamed_share: float


class Size(TypedDict):
    """``height`` and ``width`` in latent pixels, ``tokens`` of the longest prompt."""

    height: int
    width: int
    tokens: int
    batch_size: int


def counted_for_sampling(
    lora: FluxLoRA, precision: str, *, height: int, width: int, tokens: int, batch_size: int
) -> Counted:
    """What sampling with ``lora`` on its base in ``precision`` takes. Raises ``BaseModelError`` as ``empty_base``."""
    working = _working(lora.base, precision, height, width, tokens, batch_size)
    return _counted(lora, precision, working)


def _counted(lora: FluxLoRA, precision: str, working: int) -> Counted:
    whole = empty_base(replace(lora.base, precision=precision))
    blocks = tuple(weight_bytes(block) for block in whole.blocks)
    adapted = sum(tensor.nbytes for tensor in lora.tensors.values())
    return Counted(blocks, weight_bytes(whole.transformer) - sum(blocks), adapted, working)


def held_for_sampling(
    lora: FluxLoRA, usable: int, *, height: int, width: int, tokens: int, batch_size: int, streams: bool = True
) -> Held:
    """The first number format that fits ``usable`` bytes as a whole, else the last with the least share that does.

    Where nothing fits, all is streamed. ``height`` and ``width`` in latent pixels, ``tokens`` of the prompt;
    ``streams`` is false where the device is the computer's own memory. Raises ``BaseModelError`` as ``empty_base``.
    """
    precisions = AUTOMATIC if lora.base.precision == AUTO else (lora.base.precision,)
    working = _working(lora.base, precisions[0], height, width, tokens, batch_size)
    for precision in precisions:
        counted = _counted(lora, precision, working)
        if counted.with_streamed(0) <= usable:
            return Held(precision, 0.0)
    if not streams:
        return Held(precisions[-1], 0.0)
    shares = (round(number * STEP, 2) for number in range(1, round(1 / STEP)))
    return Held(precisions[-1], next((s for s in shares if counted.with_streamed(s) <= usable), 1.0))


def load_for_sampling(
    lora: FluxLoRA,
    device: torch.device | str,
    load: BaseLoader | None = None,
    *,
    height: int,
    width: int,
    tokens: int,
    batch_size: int,
) -> FluxBase:
    """The base of ``lora``, loaded as ``held_for_sampling`` says for what ``device`` has free, without the adapter.

    Pictures are the same whatever share is streamed. Raises ``BaseModelError`` where it cannot be loaded.
    """
    in_ordinary_memory = torch.device(device).type == "cpu"
    if in_ordinary_memory and lora.base.precision != AUTO:
        return (load or load_base)(lora.base, device)
    usable = int(USABLE * (free_bytes(device) + kept_bytes(load, device)))
    held = held_for_sampling(
        lora, usable, height=height, width=width, tokens=tokens, batch_size=batch_size, streams=not in_ordinary_memory
    )
    reference = replace(lora.base, precision=held.precision)
    base = (load or load_base)(reference, device, home="cpu" if held.streamed_share else None)
    if held.streamed_share:
        stream(base, device, held.streamed_share)
        log.info("%s: %.0f%% of the blocks are streamed.", lora.base.name, 100 * held.streamed_share)
    return base


def _working(reference: BaseReference, precision: str, height: int, width: int, tokens: int, batch_size: int) -> int:
    """What a pass keeps at most besides weights. Without a gradient that is the same however deep a base is."""
    base = empty_base(replace(reference, precision=precision), num_layers=1, num_single_layers=1)
    base.attention = FlashAttention
    shapes = [
        (batch_size, base.latent_channels, height, width), (batch_size,),
        (batch_size, tokens, base.context_dim), (batch_size, base.pooled_dim),
    ]  # fmt: skip
    with torch.no_grad(), Bytes(base.transformer) as counted:
        base.velocity(*(torch.empty(shape, device="meta") for shape in shapes), 1.0)
    return int(ADAPTED * counted.peak)
