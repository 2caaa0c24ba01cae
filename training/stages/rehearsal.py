"""What an update of each stage keeps on the card at its fullest, counted on the meta device before anything is loaded.

The passes are those of the stages' own ``step()``; what they compute has no numbers here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...discriminator.interface import Conditioning, Discriminator, Seen
from ..base.base_model import BaseReference, FluxBase, empty_base, empty_transformer, read_transformer_config
from ..base.families import flux1
from ..base.footprint import Bytes, Counted, FlashAttention, weight_bytes
from ..config import DiscriminatorConfig
from ..lora import adapter
from ..lora.adapter import FluxLoRA
from . import judges

# Each of a LoRA's weights on the card in fp32: itself, its gradient, two moments.
TRAINED_COPIES = 4


@dataclass(frozen=True)
class Demand:
    """What a stage asks for. ``side``: height and width of the largest latents; ``text_tokens``: of the longest prompt.

    ``discriminator``: stage 2's, ``None`` in stage 1. ``copies``: of the LoRA besides what an optimiser needs, such as
    its running average and the start that stage 2 holds to.
    """

    side: tuple[int, int]
    text_tokens: int
    batch_size: int = 1
    checkpointing: str = "blocks"
    discriminator: DiscriminatorConfig | None = None
    copies: int = 1


def weights(start: FluxLoRA, precision: str, demand: Demand) -> Counted:
    """What a stage with this start holds in ``precision`` before it computes. Raises as ``rehearse``."""
    whole = empty_base(BaseReference(start.base.path, precision))
    blocks = tuple(weight_bytes(block) for block in whole.blocks)
    outside = weight_bytes(whole.transformer) - sum(blocks)
    adapted = sum(tensor.nbytes for tensor in start.tensors.values())
    trained = (TRAINED_COPIES + demand.copies) * adapted
    if demand.discriminator is not None:
        trained += TRAINED_COPIES * weight_bytes(judges.build(demand.discriminator, whole, 1.0))
    return Counted(blocks, outside, trained, 0)


def rehearse(start: FluxLoRA, precision: str, demand: Demand) -> Counted:
    """Count what a stage with this start needs in ``precision``. Reads the checkpoint's header alone.

    Of a deep base a few blocks are run, and what each further one keeps is added: it is the same for all of a kind.
    Raises ``BaseModelError`` for a checkpoint that is not there or not FLUX.1, ``ValueError`` for taps that it does not
    have.
    """
    held = weights(start, precision, demand)
    reference, judge = BaseReference(start.base.path, precision), demand.discriminator
    whole = empty_transformer(read_transformer_config(reference.path))
    depth = Depth(len(whole.transformer_blocks), len(whole.single_transformer_blocks))
    taps = ()
    if judge is not None and judge.architecture == "flux_features":
        taps = flux1.tap_blocks(judge.taps, *depth)

    few = Depth(min(depth.double, max(2, len(taps) - 2)), min(depth.single, 2))
    if few == depth or not _of_depth(start, few).tensors:
        return held._replace(working=_working(start, reference, depth, demand, judge))
    first = range(few.double + few.single)
    shown = judge and replace(judge, taps=",".join(_name(few, place) for place in [*first][len(first) - len(taps) :]))
    loras, discriminators = _halves(start, reference, few, demand, shown)
    alone = _working(start, reference, few, demand, None)
    run = Depth(0, 0) if not taps else Depth(min(taps[-1] + 1, depth.double), max(0, taps[-1] + 1 - depth.double))
    for kind in Depth._fields:
        here, there = getattr(few, kind), getattr(depth, kind)
        missing = there - here + (max(0, getattr(run, kind) - here) if taps else 0)
        if there > here:
            deeper = _working(start, reference, few._replace(**{kind: here + 1}), demand, None)
            loras += missing * (deeper - alone)
    return held._replace(working=max(loras, discriminators))


class Depth(NamedTuple):
    """Blocks of each kind."""

    double: int
    single: int


def _working(
    start: FluxLoRA, reference: BaseReference, depth: Depth, demand: Demand, judge: DiscriminatorConfig | None
) -> int:
    """The most that is kept at once besides weights, in a base of this depth."""
    return max(_halves(start, reference, depth, demand, judge))


def _halves(
    start: FluxLoRA, reference: BaseReference, depth: Depth, demand: Demand, judge: DiscriminatorConfig | None
) -> tuple[int, int]:
    """The same for the LoRA's half of an update and for the discriminator's, which no further block makes larger."""
    base = empty_base(reference, num_layers=depth.double, num_single_layers=depth.single)
    adapter.attach(base, _of_depth(start, depth))
    base.attention = FlashAttention
    base.checkpointing = demand.checkpointing
    given = inputs(base, demand)
    network = None if judge is None else judges.build(judge, base, 1.0)
    trained = [*adapter.parameters(base), *([] if network is None else network.parameters())]
    for weight in trained:
        # Those of all layers are there at the end of the backward pass, and are counted as trained.
        weight.grad = torch.zeros_like(weight)
    if network is None:
        with Bytes(base.transformer) as counted:
            update_of_stage_1(base, given)
        return counted.peak, 0
    with Bytes(base.transformer, network) as counted:
        seen = update_of_the_lora(base, network, given)
        loras, counted.peak = counted.peak, counted.alive
        update_of_the_discriminator(network, seen, given)
    return loras, counted.peak


_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.")


def _of_depth(start: FluxLoRA, depth: Depth) -> FluxLoRA:
    """The part of the LoRA that sits on the first blocks of each kind."""

    def there(name: str) -> bool:
        found = _BLOCK.match(name)
        return found is None or int(found[2]) < (depth.single if found[1] else depth.double)

    return replace(start, tensors={name: tensor for name, tensor in start.tensors.items() if there(name)})


def _name(depth: Depth, place: int) -> str:
    return f"d{place}" if place < depth.double else f"s{place - depth.double}"


def inputs(base: FluxBase, demand: Demand) -> list[Tensor]:
    """Latents, level and prompt of a pass, on the meta device."""
    samples = demand.batch_size
    shapes = [
        (samples, base.latent_channels, *demand.side),
        (samples,),
        (samples, demand.text_tokens, base.context_dim),
        (samples, base.pooled_dim),
    ]
    return [torch.empty(shape, device="meta") for shape in shapes]


def update_of_stage_1(base: FluxBase, given: list[Tensor]) -> None:
    """Forward and backward."""
    base.velocity(*given, 1.0).square().mean().backward()


def update_of_the_lora(base: FluxBase, judge: Discriminator, given: list[Tensor]) -> list[Seen]:
    """Stage 2: up to the adversarial gradient at the velocity, and through the LoRA. What was seen of both sides."""
    latents, level, *prompts = given
    predicted = base.velocity(*given, 1.0)
    velocity = predicted.detach().requires_grad_()
    with torch.no_grad():
        real = judge.look(latents, level, Conditioning(*prompts))
    fake = judge.look(latents - velocity, level, Conditioning(*prompts))
    judge.requires_grad_(False)
    loss = sum((a - b).mean() for a, b in zip(judge.judge(fake), judge.judge(real), strict=True))
    (gradient,) = torch.autograd.grad(loss, velocity)
    judge.requires_grad_(True)
    predicted.backward(gradient)
    return [real, fake.detach()]


def update_of_the_discriminator(judge: Discriminator, seen: list[Seen], given: list[Tensor]) -> None:
    """Its verdicts on both sides, and on another look at both for its slopes."""
    latents, level, *prompts = given
    with torch.no_grad():
        seen = [*seen, *(judge.look(latents, level, Conditioning(*prompts)) for _ in seen)]
    sum(verdict.mean() for each in seen for verdict in judge.judge(each)).backward()
