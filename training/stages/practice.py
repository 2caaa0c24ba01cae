"""Updates on prompts without pictures: the LoRA draws them from noise, as it will when it is sampled.

A stage that restores noised training pictures alone meets neither the prompts that the LoRA is made for nor what its
own first steps do wrong. Here the generator starts from its own roll-out (as in Self Forcing, arXiv:2506.08009, and
D-OPSD, arXiv:2605.05204), and there is no picture of the prompt: the discriminator compares the result with a picture
of another subject, and both are shown without a caption, so that it judges how and not what is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...discriminator.interface import Conditioning
from .. import draws, flow
from ..config import AdversarialStageConfig, DiscriminatorConfig
from ..data.batches import Batch
from ..data.real_latents import RealLatents
from .drawn_prompts import DrawnPrompts


class Practice:
    """Which updates practise, on which prompts, and from where."""

    def __init__(self, data: RealLatents, config: AdversarialStageConfig, in_step: bool = False) -> None:
        """``in_step``: the ranks hold parts of the base, so that each has to evaluate it as often as the others."""
        self._data, self._seed, self._in_step = data, config.seed, in_step
        self._prompts = DrawnPrompts(data.practice_prompts, config.seed, "practice")
        self.share = config.practice_share if data.practice_prompts else 0.0

    def remarks(self, judge: DiscriminatorConfig, config: AdversarialStageConfig) -> list[str]:
        """Options that say nothing because every update practises."""
        idle = [
            name
            for name, value in (
                ("caption_dropout", config.caption_dropout),
                ("mismatched_share", judge.mismatched_share),
                ("replay_share", judge.replay_share),
            )
            if value
        ]
        if self.share < 1 or not idle:
            return []
        return [f"practice_share is 1: {' and '.join(idle)} are of updates that do not practise, and there are none."]

    def due(self, draw: int) -> bool:
        """Whether this update practises: all of it, on every rank, or nothing of it."""
        return draws.uniforms(self._seed, draw, [0], "practice").item() < self.share

    def batches(self, batches: Sequence[Batch], draw: int) -> list[Batch]:
        """The same pictures with practice prompts of one length in their captions' place."""
        return self._prompts.batches(batches, draw)

    @torch.no_grad()
    def rolled_out(
        self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigma: Tensor, levels: Tensor
    ) -> Tensor:
        """From ``noise`` (B, C, h, w) by Euler steps over the sampler's ``levels`` to ``sigma`` (B,), which are some of
        them. ``velocity`` takes x_t and its levels."""
        x = noise
        for here, there in itertools.pairwise(levels):
            on = here > sigma
            if not self._in_step and not bool(on.any()):
                break
            here, there = here.expand_as(sigma), there.expand_as(sigma)
            x = torch.where(on.view(-1, 1, 1, 1), flow.jump(x, velocity(x, here), here, there), x)
        return x

    def without_caption(self, count: int, like: Tensor) -> Conditioning:
        """The empty prompt ``count`` times, on ``like``'s device and in its number type."""
        prompt = self._data.empty_prompt
        parts = (prompt.prompt_embeds, prompt.pooled_prompt_embeds)
        return Conditioning(*(part.to(like).expand(count, *part.shape) for part in parts))
