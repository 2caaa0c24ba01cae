"""Prompts outside of what the LoRA is for: there it is to leave the base as it is.

What a distilled base has learnt about few steps is nowhere in the training pictures, and an adapter undoes it while it
learns them. So the LoRA draws other prompts as well, from noise in the sampler's own steps, and its velocities on that
way are held to those of the base without it: learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282,
section 3), on the states that the LoRA itself comes to.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import draws
from ..config import AdversarialStageConfig
from ..data.batches import Batch
from ..data.real_latents import RealLatents
from .drawn_prompts import DrawnPrompts


class Outside:
    """Which updates look outside, and at which prompts."""

    def __init__(self, data: RealLatents, config: AdversarialStageConfig) -> None:
        self._seed = config.seed
        self._prompts = DrawnPrompts(data.outside_prompts, config.seed, "outside")
        self.share = config.outside_share if data.outside_prompts else 0.0

    def due(self, draw: int) -> bool:
        """Whether this update does, on every rank alike."""
        return draws.uniforms(self._seed, draw, [0], "outside").item() < self.share

    def batches(self, batches: Sequence[Batch], draw: int) -> list[Batch]:
        """As many samples with outside prompts."""
        return self._prompts.batches(batches, draw)
