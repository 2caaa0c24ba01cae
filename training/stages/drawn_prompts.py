"""Prompts without pictures in the place of a batch's captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from .. import draws
from ..data.batches import Batch
from ..data.real_latents import Prompt, StoredPrompt, in_lengths


class DrawnPrompts:
    """A set of prompts, of which each sample draws one for itself; ``kind``: what they are called, and a stream."""

    def __init__(self, prompts: Sequence[Prompt | StoredPrompt], seed: int, kind: str) -> None:
        self._prompts, self._groups, self._seed, self._kind = prompts, in_lengths(prompts), seed, kind

    def batches(self, batches: Sequence[Batch], draw: int) -> list[Batch]:
        """The same samples with prompts of one length, to be drawn from noise."""
        place = draws.uniforms(self._seed, draw, [0], f"{self._kind} length").item() * len(self._prompts)
        # A prompt is as likely whatever its length.
        group = next(g for i, g in enumerate(self._groups) if place < sum(map(len, self._groups[: i + 1])))
        found = []
        for batch in batches:
            drawn = draws.uniforms(self._seed, draw, batch.positions, f"{self._kind} prompt")
            prompts = [self._prompts[group[int(part * len(group))]] for part in drawn.tolist()]
            embeds = torch.stack([prompt.prompt_embeds for prompt in prompts])
            pooled = torch.stack([prompt.pooled_prompt_embeds for prompt in prompts])
            found.append(
                dataclasses.replace(
                    batch,
                    prompt_embeds=embeds.to(batch.prompt_embeds),
                    pooled_prompt_embeds=pooled.to(batch.pooled_prompt_embeds),
                    names=tuple(
                        f"{name} with {self._kind} prompt '{prompt.caption[:60]}'"
                        for name, prompt in zip(batch.names, prompts, strict=True)
                    ),
                    drawn_prompts=True,
                )
            )
        return found
