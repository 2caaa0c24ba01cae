"""From a dataset to the batches of a step: order, posterior samples, flips, caption dropout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import draws
from .order import global_batch
from .real_latents import LatentSample, Prompt, RealLatents, drawn, group_by_shape

FLIP_PROBABILITY = 0.5


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size and one prompt length, fp32, model-space latents.

    ``x0`` (B, C, h, w), ``prompt_embeds`` (B, L, D), ``pooled_prompt_embeds`` (B, P), ``mask`` (B, 1, h, w) in [0, 1]
    or ``None``. ``positions`` is the place of each sample in the step's global batch: the key of its random draws.
    ``few_step`` says of each sample whether it is for the few-step sampler; it is empty where there is one sampler.
    ``captions`` numbers each picture's own prompt in the dataset; ``dropped`` are those trained with the empty prompt.
    ``drawn_prompts``: the prompts are not those of the pictures but drawn from some without pictures, all of them.
    """

    x0: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    mask: Tensor | None
    names: tuple[str, ...]
    positions: tuple[int, ...]
    captions: tuple[int, ...]
    dropped: tuple[bool, ...]
    few_step: tuple[bool, ...] = ()
    drawn_prompts: bool = False

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        return dataclasses.replace(
            self,
            x0=self.x0.to(device),
            prompt_embeds=self.prompt_embeds.to(device),
            pooled_prompt_embeds=self.pooled_prompt_embeds.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )


def in_few_step_mode(step: int, positions: Sequence[int]) -> tuple[bool, ...]:
    """Which samples of a step's global batch are trained for the few-step sampler, by their ``positions``.

    Every other one, and the first by a coin that is thrown for each step: half of an even global batch, and half of
    the steps of a single sample.
    """
    # Plain alternation of steps would leave a single sample in one mode for ever where the caller's steps are not
    # consecutive: those of the LoRA's updates in the adversarial stage are all odd or all even.
    first = int(draws.uniforms(0, step, [0], "data/few-step").item() < 0.5)
    return tuple((position + first) % 2 == 1 for position in positions)


def micro_batches(
    data: RealLatents,
    *,
    seed: int,
    step: int,
    batch_size: int,
    gradient_accumulation: int,
    caption_dropout: float = 0.0,
    two_samplers: bool = False,
    share: tuple[int, int] = (0, 1),
) -> list[Batch]:
    """The ``gradient_accumulation`` batches of ``batch_size`` samples of one step, a function of (seed, step) alone.

    ``share``: (rank, ranks) of a run on several devices. The step's global batch holds batch_size *
    gradient_accumulation * ranks samples of one latent size and prompt length. It is cut into the micro batches of all
    ranks, one rank's after the other's, so that 4 x 1, 1 x 4 and two ranks' 2 x 1 hold the same samples with the same
    draws. ``step`` counts from 0. Every training sample comes equally often (see ``global_batch``); a group smaller
    than the global batch repeats its samples in it.

    x0 is a sample of the VAE's posterior. Where a flipped encoding exists, it is taken with probability 0.5, and the
    mask with it. A sample without a mask has ones where another of the global batch has a mask. With probability
    ``caption_dropout`` a prompt is replaced by ``data.empty_prompt``: for each sample where the empty prompt is as long
    as the others, else for the whole global batch at once, because prompts of different lengths cannot be stacked.

    ``two_samplers`` fills ``Batch.few_step`` as ``in_few_step_mode`` says, and gives those samples their few-step
    prompt, or ``data.few_step_empty_prompt`` where it is dropped. A dataset without few-step prompts keeps its plain
    ones: then something else, such as the guidance, must tell the samplers apart. Samples and noise stay the same.

    Raises ``ValueError`` for a number out of range, a dataset without training samples, or one that lacks the few-step
    empty prompt where it is needed.
    """
    if batch_size < 1 or gradient_accumulation < 1:
        raise ValueError(
            f"batch_size and gradient_accumulation must be at least 1, got {batch_size} and {gradient_accumulation}."
        )
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}.")
    if not 0.0 <= caption_dropout <= 1.0:
        raise ValueError(f"caption_dropout must be from 0 to 1, got {caption_dropout}.")
    if not data.training:
        raise ValueError("The dataset has no training samples: all of them are held out.")
    if two_samplers and caption_dropout > 0 and data.few_step_prompts and data.few_step_empty_prompt is None:
        raise ValueError("caption_dropout needs few_step_empty_prompt in a dataset with few_step_prompts.")
    rank, ranks = share
    size = batch_size * gradient_accumulation * ranks
    chosen = global_batch(data.training_groups, seed=seed, step=step, size=size)
    dropped = _dropped(data, chosen, seed, step, caption_dropout)
    masked = any(data.samples[index].masked for index in chosen)
    batches = []
    own = batch_size * gradient_accumulation
    for start in range(rank * own, (rank + 1) * own, batch_size):
        positions = tuple(range(start, start + batch_size))
        samples = [data.samples[chosen[position]] for position in positions]
        few_step = in_few_step_mode(step, positions) if two_samplers else ()
        own_dropped = tuple(dropped[position] for position in positions)
        flips = (draws.uniforms(seed, step, positions, "data/flip") < FLIP_PROBABILITY).tolist()
        flips = [flip and sample.flippable for flip, sample in zip(flips, samples, strict=True)]
        x0 = torch.stack(
            [
                _posterior_sample(sample, flip, seed, step, position)
                for sample, flip, position in zip(samples, flips, positions, strict=True)
            ]
        )
        batches.append(_stack(data, samples, x0, flips, positions, masked, few_step, own_dropped))
    return batches


def held_out_batches(
    data: RealLatents, batch_size: int, few_step: bool = False, most: int | None = None
) -> Iterator[Batch]:
    """The held-out samples in batches of up to ``batch_size``: posterior mean, never flipped, own captions.

    A picture that repeats with the same caption and mask comes once. Of more than ``most`` different ones that many are
    drawn, always the same. ``positions`` numbers the samples independently of ``batch_size``, so that draws keyed by it
    are the same in every measurement. ``few_step`` marks every sample as one for the few-step sampler and gives it the
    few-step prompt, where the dataset has them.

    Raises ``ValueError`` for a ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    distinct: dict[tuple[str, int], int] = {}
    for index in data.held_out:
        distinct.setdefault((data.samples[index].content, data.samples[index].prompt), index)
    found = [*distinct.values()]
    chosen = found if most is None else drawn(found, most, "data/held-out")
    position = {index: number for number, index in enumerate(chosen)}
    for group in group_by_shape(data, list(position)):
        for start in range(0, len(group), batch_size):
            indices = group[start : start + batch_size]
            samples = [data.samples[index] for index in indices]
            yield _stack(
                data,
                samples,
                torch.stack([sample.mean for sample in samples]),
                [False] * len(samples),
                tuple(position[index] for index in indices),
                any(sample.masked for sample in samples),
                (True,) * len(samples) if few_step else (),
                (False,) * len(samples),
            )


def _dropped(data: RealLatents, chosen: Sequence[int], seed: int, step: int, share: float) -> list[bool]:
    """For each sample of the global batch: is its prompt replaced by the empty one?"""
    if data.empty_prompt.length != data.prompts[data.samples[chosen[0]].prompt].length:
        return (draws.uniforms(seed, step, [0], "data/caption dropout") < share).tolist() * len(chosen)
    return (draws.uniforms(seed, step, range(len(chosen)), "data/caption dropout") < share).tolist()


def prompt_of(data: RealLatents, number: int | None, few_step: bool) -> Prompt:
    """Prompt ``number``, or the empty one for ``None``, as the one or the other sampler is given it."""
    if few_step and data.few_step_prompts:
        prompt = data.few_step_empty_prompt if number is None else data.few_step_prompts[number]
        assert prompt is not None
        return prompt
    return data.empty_prompt if number is None else data.prompts[number]


def _posterior_sample(sample: LatentSample, flip: bool, seed: int, step: int, position: int) -> Tensor:
    mean, std = (sample.flipped_mean, sample.flipped_std) if flip else (sample.mean, sample.std)
    assert mean is not None
    if std is None:
        return mean
    return mean + std * draws.normals(seed, step, [position], "data/posterior", mean.shape)[0]


def _stack(
    data: RealLatents,
    samples: Sequence[LatentSample],
    x0: Tensor,
    flips: Sequence[bool],
    positions: tuple[int, ...],
    masked: bool,
    few_step: tuple[bool, ...],
    dropped: tuple[bool, ...],
) -> Batch:
    prompts = [
        prompt_of(data, None if empty else sample.prompt, few)
        for sample, few, empty in zip(samples, few_step or [False] * len(samples), dropped, strict=True)
    ]
    mask = None
    if masked:
        found = [sample.mask for sample in samples]
        masks = [torch.ones(1, *x0.shape[2:]) if each is None else each for each in found]
        mask = torch.stack([m.flip(-1) if flip else m for m, flip in zip(masks, flips, strict=True)])
    return Batch(
        x0=x0,
        prompt_embeds=torch.stack([prompt.prompt_embeds for prompt in prompts]),
        pooled_prompt_embeds=torch.stack([prompt.pooled_prompt_embeds for prompt in prompts]),
        mask=mask,
        names=tuple(sample.name for sample in samples),
        positions=positions,
        captions=tuple(sample.prompt for sample in samples),
        dropped=dropped,
        few_step=few_step,
    )
