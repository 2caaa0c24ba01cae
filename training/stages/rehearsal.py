"""What an update of each stage keeps on the card at its fullest, counted on the meta device before anything is loaded.

The passes are those of the stages' own ``step()``; what they compute has no numbers here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...discriminator.interface import Conditioning, Discriminator, Seen
from ..base.base_model import BaseReference, FluxBase, empty_base, read_transformer_config
from ..base.families import Family, family_of
from ..base.families.latent_space import FLUX_1
from ..base.footprint import Bytes, Counted, FlashAttention, weight_bytes
from ..config import DiscriminatorConfig
from ..lora import adapter
from ..lora.adapter import FluxLoRA
from . import judges

# Each of a LoRA's weights on the card in fp32: itself, its gradient, two moments.
TRAINED_COPIES = 4


@dataclass(frozen=True)
class Demand:
    """What a stage asks for. ``side``: height and width of the largest latents, a pixel of which is ``factor``
    pixels of the picture wide; ``text_tokens``: of the longest prompt.

    ``discriminator``: stage 2's, ``None`` in stage 1. ``copies``: of the LoRA besides what an optimiser needs, such as
    its running average and the start that stage 2 holds to.
    """

    side: tuple[int, int]
    text_tokens: int
    batch_size: int = 1
    checkpointing: str = "blocks"
    discriminator: DiscriminatorConfig | None = None
    copies: int = 1
    factor: int = FLUX_1.factor


def weights(start: FluxLoRA, precision: str, demand: Demand) -> Counted:
    """What a stage with this start holds in ``precision`` before it computes. Raises as ``rehearse``."""
    depth, few, judge = _shortened(start, demand)
    base = _empty(start, precision, few)
    here = [weight_bytes(block) for block in base.blocks]
    # All of a kind are alike. A double one may be two, for prompt and picture.
    first_single = len(here) - few.single
    own = [size for size in here[: first_single : max(1, few.double)] for _ in range(depth.double)]
    blocks = (*own, *here[first_single:][:1] * depth.single)
    adapted = sum(tensor.nbytes for tensor in start.tensors.values())
    trained = (TRAINED_COPIES + demand.copies) * adapted
    if judge is not None:
        trained += TRAINED_COPIES * weight_bytes(judges.build(judge, base, 1.0))
    return Counted(blocks, weight_bytes(base.transformer) - sum(here), trained, 0)


def rehearse(start: FluxLoRA, precision: str, demand: Demand) -> Counted:
    """Count what a stage with this start needs in ``precision``. Reads the checkpoint's header alone.

    Of a deep base a few blocks are run, and what each further one keeps is added: it is the same for all of a kind.
    Raises ``BaseModelError`` for a checkpoint that is not there or of no family, ``ValueError`` for taps that it
    does not have.
    """
    held = weights(start, precision, demand)
    family = family_of(read_transformer_config(start.base.path))
    depth, few, judge = _shortened(start, demand)
    if not _of_depth(start, family, few).tensors:
        few, judge = depth, demand.discriminator
    passes = _passes(start, precision, few, demand, judge)
    doubles, singles = (there - here for there, here in zip(depth, few, strict=True))
    kept = passes.kept
    # By the time that a pass comes back to the double blocks, the single ones keep nothing any more.
    back = passes.back + doubles * kept.double
    ahead = passes.ahead + doubles * kept.double + singles * kept.single
    if judge is not None:
        last = family.tap_blocks(demand.discriminator.taps, *depth)[-1] if judge.architecture == "flux_features" else -1
        run = Depth(min(last + 1, depth.double), max(0, last + 1 - depth.double))
        ahead += max(0, run.double - few.double) * kept.double + max(0, run.single - few.single) * kept.single
    return held._replace(working=max(ahead, back, passes.judged))


class Depth(NamedTuple):
    """Blocks of each kind."""

    double: int
    single: int


def _shortened(start: FluxLoRA, demand: Demand) -> tuple[Depth, Depth, DiscriminatorConfig | None]:
    """The base's depth, one of as few blocks as tell of all, and the discriminator for that, with as many taps."""
    config, judge = read_transformer_config(start.base.path), demand.discriminator
    family = family_of(config)
    depth = Depth(*family.depth(config))
    taps = ()
    if judge is not None and judge.architecture == "flux_features":
        taps = family.tap_blocks(judge.taps, *depth)
    few = Depth(min(depth.double, max(2, len(taps) - 2)), min(depth.single, 2))
    if not taps or few == depth:
        return depth, few, judge
    last = range(sum(few) - len(taps), sum(few))
    return depth, few, replace(judge, taps=",".join(_name(few, place) for place in last))


def _empty(start: FluxLoRA, precision: str, depth: Depth) -> FluxBase:
    reference = BaseReference(start.base.path, precision)
    return empty_base(reference, num_layers=depth.double, num_single_layers=depth.single)


class Passes(NamedTuple):
    """The most bytes besides weights: of the LoRA's half of an update until it comes ``back`` to the double blocks
    (``ahead``) and from there on, and of the discriminator's half (``judged``), which no further block makes larger.

    ``kept``: what a block of each kind keeps for the way back.
    """

    ahead: int
    back: int
    judged: int
    kept: Depth


def _passes(
    start: FluxLoRA, precision: str, depth: Depth, demand: Demand, judge: DiscriminatorConfig | None
) -> Passes:
    """Run an update in a base of this depth."""
    base = _empty(start, precision, depth)
    adapter.attach(base, _of_depth(start, base.family, depth))
    base.attention = FlashAttention
    base.checkpointing = demand.checkpointing
    given = inputs(base, demand)
    network = None if judge is None else judges.build(judge, base, 1.0)
    trained = [*adapter.parameters(base), *([] if network is None else network.parameters())]
    for weight in trained:
        # Those of all layers are there at the end of the backward pass, and are counted as trained.
        weight.grad = torch.zeros_like(weight)
    with Bytes(base.transformer, *([] if network is None else [network])) as counted:
        watched = _Watched(base, counted)
        seen = update_of_stage_1(base, given) if network is None else update_of_the_lora(base, network, given)
        ahead, back = watched.halves()
        judged, counted.peak = 0, counted.alive
        if network is not None:
            update_of_the_discriminator(network, seen, given)
            judged = counted.peak
    return Passes(ahead, back, judged, watched.kept())


class _Watched:
    """What is alive as the first pass through a base comes to each block and as it leaves it, and when it is back at
    the double ones."""

    def __init__(self, base: FluxBase, counted: Bytes) -> None:
        self._counted = counted
        self._depth = Depth(*base.family.depth(base.transformer.config))
        self._doubles = len(base.blocks) - self._depth.single
        self._stops = len(base.blocks) + 1
        self._alive: list[int] = []
        self._left: list[int] = []
        self._ahead: int | None = None
        for module in (*base.blocks, base.transformer.norm_out):
            module.register_forward_pre_hook(self._come_to, with_kwargs=True)
            module.register_forward_hook(self._leave)

    def _come_to(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        place = len(self._alive)
        if place == self._stops:
            return
        self._alive.append(self._counted.alive)
        image = args[0] if args else named["hidden_states"]
        if place == self._doubles and image.requires_grad:
            image.register_hook(self._come_back)

    def _leave(self, *_: Any) -> None:
        if len(self._left) < self._stops:
            self._left.append(self._counted.alive)

    def _come_back(self, _: Tensor) -> None:
        self._ahead, self._counted.peak = self._counted.peak, self._counted.alive

    def halves(self) -> tuple[int, int]:
        """The peak until the pass was back at the double blocks, and the one from there on."""
        return (self._counted.peak, 0) if self._ahead is None else (self._ahead, self._counted.peak)

    def kept(self) -> Depth:
        """What the last block of each kind has kept; 0 where there is none. A double one may be two, for prompt and
        picture."""
        # What a block was given may go after it, and before those of another kind both streams are put together, once.
        ends = map(min, self._left, self._alive[1:])
        gained = [after - before for before, after in zip(self._alive, ends, strict=False)]
        doubles, singles = gained[: self._doubles], gained[self._doubles :]
        last_ones = doubles[self._depth.double - 1 :: self._depth.double] if doubles else []
        return Depth(sum(last_ones), singles[-1] if singles else 0)


def _of_depth(start: FluxLoRA, family: Family, depth: Depth) -> FluxLoRA:
    """The part of the LoRA that sits on the first blocks of each kind."""

    def there(name: str) -> bool:
        place = family.place(name)
        return place is None or place[1] < depth[place[0]]

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
