"""The dataset of both stages: encoded pictures and captions, in memory or in the cache on disk, never mutated."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import draws
from .latent_cache import digest
from .stored_latents import StoredPrompt, StoredSample

MOST_MEASURED = 4096


@dataclass(frozen=True, eq=False)
class Prompt:
    """A caption and its encodings: ``prompt_embeds`` (L, D) and ``pooled_prompt_embeds`` (P,), fp32 on the CPU."""

    caption: str
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor

    @property
    def length(self) -> int:
        """Tokens of ``prompt_embeds``."""
        return self.prompt_embeds.shape[0]

    @property
    def width(self) -> int:
        """Width of ``prompt_embeds``."""
        return self.prompt_embeds.shape[1]

    @property
    def pooled_width(self) -> int:
        """Width of ``pooled_prompt_embeds``."""
        return self.pooled_prompt_embeds.shape[0]


@dataclass(frozen=True, eq=False)
class LatentSample:
    """One training picture: posteriors (C, h, w) in model space, a mask (1, h, w) in [0, 1], an index into prompts.

    C is the base's number of latent channels.
    ``flipped_mean`` and ``flipped_std`` are the encoding of the mirrored picture, which is not the mirrored encoding.
    The mask belongs to the picture as it is; it is mirrored with it.
    """

    name: str
    mean: Tensor
    std: Tensor | None
    flipped_mean: Tensor | None
    flipped_std: Tensor | None
    mask: Tensor | None
    prompt: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of the latents."""
        return tuple(self.mean.shape)

    @functools.cached_property
    def content(self) -> str:
        """A hash (hex) of latents and mask: that of a picture that comes again is the same."""
        return digest(self.mean, self.mask if self.mask is not None else "none")

    @property
    def flippable(self) -> bool:
        """Whether there is an encoding of the mirrored picture."""
        return self.flipped_mean is not None

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.mask is not None


@dataclass(frozen=True, eq=False)
class RealLatents:
    """The dataset. ``held_out`` are the indices of samples that are never trained on.

    Samples and prompts of a set that is too large for memory are read from the cache each time they are looked at.

    ``fingerprint`` is a hash of all that a training run can notice: latents, embeddings, masks, flips, order, split.

    With a ``few_step_phrase``, ``few_step_prompts[i]`` is ``prompts[i]`` with the phrase at its front, of the same
    length, and ``few_step_empty_prompt`` is the phrase alone. Without one they are empty and ``None``.

    ``practice_prompts`` have no pictures. Stage 1 does not look at them: they have a ``practice_fingerprint`` of their
    own, empty without any. ``outside_prompts`` likewise.

    ``preview_prompts`` are for pictures to look at, and no training notices them: no fingerprint has them. With a
    phrase, ``few_step_preview_prompts`` are the same with it at their front.

    ``negative_prompt``: what samples at a ``cfg`` other than 1 are led away from; ``None``: from the empty prompt.
    Only the watch may notice it, so that it has a fingerprint of its own, empty without one.

    ``resolution``: side in pixels of the square that the pictures have about the area of; 0 where that is not known.
    """

    samples: tuple[LatentSample | StoredSample, ...]
    prompts: tuple[Prompt | StoredPrompt, ...]
    empty_prompt: Prompt | StoredPrompt
    held_out: tuple[int, ...]
    fingerprint: str
    few_step_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    few_step_empty_prompt: Prompt | StoredPrompt | None = None
    few_step_phrase: str = ""
    practice_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    practice_fingerprint: str = ""
    outside_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    outside_fingerprint: str = ""
    preview_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    few_step_preview_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    negative_prompt: Prompt | StoredPrompt | None = None
    negative_fingerprint: str = ""
    resolution: int = 0

    @property
    def negative(self) -> tuple[Tensor, Tensor]:
        """The negative prompt's embeddings (L, D) and pooled ones (P,)."""
        prompt = self.negative_prompt or self.empty_prompt
        return prompt.prompt_embeds, prompt.pooled_prompt_embeds

    @functools.cached_property
    def training(self) -> tuple[int, ...]:
        """The indices of the samples that are trained on."""
        held_out = set(self.held_out)
        return tuple(index for index in range(len(self.samples)) if index not in held_out)

    @functools.cached_property
    def training_deviation(self) -> float:
        """Standard deviation of the training latents within their channels, about 1 for FLUX's VAE on most pictures.

        Of at most ``MOST_MEASURED`` of them, evenly spread.
        """
        places, sums, squares = 0, torch.zeros(()), torch.zeros(())
        for index in spread(self.training, MOST_MEASURED):
            latents = self.samples[index].mean.double().flatten(1)
            places += latents.shape[1]
            sums = sums + latents.sum(1)
            squares = squares + latents.square().sum()
        means = sums / places
        square = squares / (places * len(means)) - means.square().mean()
        return float(square.clamp_min(1e-12).sqrt())

    @functools.cached_property
    def training_groups(self) -> tuple[tuple[int, ...], ...]:
        """``training`` in groups of one latent size and one prompt length: those that can share a batch."""
        return group_by_shape(self, self.training)


def in_lengths(prompts: Sequence[Prompt | StoredPrompt]) -> tuple[tuple[int, ...], ...]:
    """``prompts`` (indices) in groups of one length: those that can share a batch."""
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.length, []).append(index)
    return tuple(tuple(groups[length]) for length in sorted(groups))


def group_by_shape(data: RealLatents, samples: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """``samples`` (indices) in groups that can be stacked: same latent size, same prompt length."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in samples:
        sample = data.samples[index]
        groups.setdefault((*sample.shape[1:], data.prompts[sample.prompt].length), []).append(index)
    return tuple(tuple(groups[shape]) for shape in sorted(groups))


def drawn(indices: Sequence[int], most: int, stream: str) -> tuple[int, ...]:
    """``indices``, or ``most`` of them, in their order, where there are more: a folder is often sorted, and its first
    pictures are then not like the rest.

    The same ones at each call, so that what is measured with them can be compared; ``stream`` names the use.
    """
    if len(indices) <= most:
        return tuple(indices)
    order = torch.randperm(len(indices), generator=draws.generator(0, 0, 0, stream))[:most]
    return tuple(indices[place] for place in sorted(order.tolist()))


def spread(indices: Sequence[int], most: int) -> tuple[int, ...]:
    """``indices``, or ``most`` of them at equal distances where there are more."""
    if len(indices) <= most:
        return tuple(indices)
    return tuple(indices[place * len(indices) // most] for place in range(most))


def with_phrase(phrase: str, caption: str) -> str:
    """``caption`` with ``phrase`` at its front: the prompt of the few-step sampler, in training and when sampling.

    The phrase alone for a caption without words, the caption for an empty phrase.
    """
    return ", ".join(part for part in (phrase.strip(), caption) if part.strip())
