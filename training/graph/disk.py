"""What the runs of a graph's stages are going to keep on the disk."""

from __future__ import annotations

import math
from functools import lru_cache

from ..config import DiscriminatorConfig, StageConfig
from ..stages.rehearsal import TRAINED_COPIES, Demand, weights
from .outputs import size_of
from .prompt_graph import Settings
from .starts import ByShapes, Start


def least_on_disk(begun: Start, own: Settings[StageConfig], judge: Settings[DiscriminatorConfig] | None) -> int:
    """Bytes of the checkpoints that a stage has at one time, and of its result: the least, where something is unknown.

    ``judge``: of stage 2, ``None`` in stage 1.
    """
    if begun.lora is None:
        return 0
    lora = size_of(begun.lora)
    averaged = own.knows("ema_decay") and own.config.ema_decay > 0
    # The weights, both moments of the optimiser, the running average, and a LoRA to try.
    checkpoint = lora * (1 + 2 + int(averaged) + 1)
    if judge is not None and not judge.unknown:
        checkpoint += 3 * _discriminator(ByShapes(begun.lora), judge.config)
    return _kept(own) * checkpoint + lora


def _kept(own: Settings[StageConfig]) -> int:
    """Checkpoints that are there at one time: a new one is written before another is removed."""
    if not own.knows("steps", "checkpoint_every", "keep_last", "keep_every"):
        return 0
    config = own.config
    if not config.checkpoint_every:
        return 0
    for_good = config.steps // math.lcm(config.checkpoint_every, config.keep_every) if config.keep_every else 0
    return max(for_good, min(config.steps // config.checkpoint_every, config.keep_last + 1))


@lru_cache(maxsize=16)
def _discriminator(shapes: ByShapes, config: DiscriminatorConfig) -> int:
    trained = weights(shapes.lora, "bf16", Demand((16, 16), 1, discriminator=config, copies=0)).trained
    return trained // TRAINED_COPIES - size_of(shapes.lora)
