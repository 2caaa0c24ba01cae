"""The base that previews and the watch sample with: the stage's own, or the sibling that its LoRA will be used on.

A sibling is loaded for each examination and let go after it: as a whole where it fits beside the stage's base, else
with as much of it streamed as has no room.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..base.base_model import BaseReference, FluxBase
from ..config import AUTO, AUTOMATIC, StageConfig
from ..data.real_latents import RealLatents
from ..evidence.sampling_base import Size, counted_for_sampling, load_for_sampling
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
from .plan import largest

if TYPE_CHECKING:
    from .stage import Stage


@contextmanager
def examined(stage: Stage) -> Iterator[FluxBase]:
    """The base to sample with, and on it the weights that ``stage`` would deliver.

    Raises ``BaseModelError`` for a sibling that cannot be loaded.
    """
    if stage.sampling_base is None:
        with stage.delivered_weights():
            yield stage.base
        return
    # In a format that is settled for the run: what the watch decides by must not hang on what is free just now.
    precision = stage.plan.precision if stage.sampling_base.precision == AUTO else stage.sampling_base.precision
    lora = replace(
        stage.start, base=replace(stage.sampling_base, precision=precision), tensors=stage.delivered()
    )
    base = load_for_sampling(lora, stage.device, **_size(stage.data, stage.config))
    try:
        adapters.attach(base, lora)
        yield base
    finally:
        del base
        gc.collect()
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()


def least_beside(start: FluxLoRA, sibling: BaseReference | None, data: RealLatents, config: StageConfig) -> int:
    """The bytes that examinations take beside the stage's own weights where all of ``sibling`` is streamed; 0 without.

    Raises ``BaseModelError`` as ``empty_base``.
    """
    if sibling is None:
        return 0
    precision = AUTOMATIC[0] if sibling.precision == AUTO else sibling.precision
    lora = replace(start, base=replace(sibling, precision=precision))
    return counted_for_sampling(lora, precision, **_size(data, config)).with_streamed(1.0)


def _size(data: RealLatents, config: StageConfig) -> Size:
    (height, width), tokens = largest(data)
    # Two passes at once where one of the two is guided.
    return Size(height=height, width=width, tokens=tokens, batch_size=2 * config.batch_size)
