"""Whether a stage fits its card, as far as a graph says how large it is going to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from ..base.memory import USABLE
from ..config import TINY_BASE, DataConfig, DiscriminatorConfig, StageConfig
from ..data.buckets import buckets
from ..lora.adapter import FluxLoRA
from ..stages.plan import GIB, Counting, NoRoom, Plan, Room, asked, plan_stage
from ..stages.rehearsal import Demand
from .known import Memory
from .prompt_graph import Settings
from .starts import ByShapes, Start

# What a plan depends on in other ways than that more of it takes more room.
DECIDING = ("memory_limit_gb", "gradient_checkpointing", "streamed_share", "compile_blocks")
# The least that any text encoder gives for a caption.
FEWEST_TOKENS = 1


def check_room(
    begun: Start,
    own: Settings[StageConfig],
    data: Settings[DataConfig] | None,
    judge: Settings[DiscriminatorConfig] | None,
    memory: Memory,
) -> Iterator[str]:
    """Why a stage does not fit, where that is sure: by the least that it can come to.

    ``data``: ``None`` where it is not known; ``judge``: of stage 2, ``None`` in stage 1.
    """
    limit = int(own.config.memory_limit_gb * GIB)
    if begun.lora is None or not begun.precision_known or not own.knows(*DECIDING):
        return
    if not memory.card and not limit:  # all is as asked, and what does not fit is swapped
        return
    if judge is not None and judge.unknown:
        return
    usable, free = int(USABLE * memory.free), memory.free
    room = Room(min(usable, limit), min(free, limit), usable) if limit else Room(usable, free)
    counting = _counting(begun.lora.base, begun.lora, _least(begun.lora.base, own, data, judge))
    wanted = asked(begun.lora.base.precision, own.config)
    share = 1.0 if wanted.streams else wanted.streamed_share
    cheapest = Plan(wanted.precisions[-1], wanted.checkpointing[-1], share)
    held = counting.least(cheapest)
    # A rehearsal takes seconds, and a plan of all that may be tried many of them.
    if held <= room.free and (held + _ample(counting) <= room.free or counting.peak(cheapest) <= room.free):
        return
    try:
        plan_stage(counting, own.config, room, begun.lora.base.precision)
    except NoRoom as error:
        yield str(error)


def _ample(counting: Counting) -> int:
    """Bytes that are surely enough for what a pass keeps with every block computed anew: twice what they come to."""
    demand, config = counting.demand, read_transformer_config(counting.start.base.path)
    height, width = demand.side
    tokens = demand.batch_size * (family_of(config).space.num_tokens(height, width) + demand.text_tokens)
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    # The input of every block, and inside of one about sixty times as much; both in bf16.
    kept = tokens * channels * 2 * (sum(family_of(config).depth(config)) + 60)
    return 2 * kept * (1 if demand.discriminator is None else 2)


def _least(
    base: BaseReference,
    own: Settings[StageConfig],
    data: Settings[DataConfig] | None,
    judge: Settings[DiscriminatorConfig] | None,
) -> Demand:
    resolution, step = 16, 16
    if data is not None and data.knows("resolution", "bucket_step"):
        resolution, step = data.config.resolution, data.config.bucket_step
    height, width = min(buckets(resolution, step), key=lambda side: side[0] * side[1])
    family = family_of(read_transformer_config(base.path))
    averaged = own.knows("ema_decay") and own.config.ema_decay > 0
    return Demand(
        (height // family.space.factor, width // family.space.factor),
        FEWEST_TOKENS if base.path == TINY_BASE else family.text_tokens,
        own.config.batch_size if own.knows("batch_size") else 1,
        discriminator=None if judge is None else judge.config,
        copies=int(averaged) + int(judge is not None),
        factor=family.space.factor,
    )


def _counting(base: BaseReference, lora: FluxLoRA, demand: Demand) -> Counting:
    return _counted(base, ByShapes(lora), demand)


@lru_cache(maxsize=16)
def _counted(base: BaseReference, shapes: ByShapes, demand: Demand) -> Counting:
    return Counting(dataclasses.replace(shapes.lora, base=base), demand)
