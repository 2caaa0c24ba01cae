"""That what the encoders gave, and what they were given, can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..base.families.latent_space import LatentSpace
from ..config import DataConfig
from .data_error import DataError, quoted
from .real_latents import with_phrase
from .stored_latents import Encoding

MOST_PREVIEWS = 16


def check_counts(
    images: Sequence[Tensor], captions: Sequence[str], names: Sequence[str], masks: Sequence[Tensor | None] | None
) -> None:
    if not images:
        raise DataError("There are no pictures to encode. Connect at least one picture.")
    if len(captions) != len(images):
        raise DataError(
            f"There are {len(images)} pictures and {len(captions)} captions. Each picture needs its own caption: give "
            f"{len(images)} captions in the order of the pictures, or repeat one caption {len(images)} times."
        )
    if len(names) != len(images):
        raise DataError(f"There are {len(images)} pictures and {len(names)} names. Give one name for each picture.")
    if masks is not None and len(masks) != len(images):
        raise DataError(
            f"There are {len(images)} pictures and {len(masks)} masks. Give one mask for each picture, in the order of "
            "the pictures, or none at all."
        )


def check_previews(prompts: Sequence[str]) -> None:
    if len(prompts) > MOST_PREVIEWS:
        raise DataError(
            f"preview_prompts has {len(prompts)} prompts, and a preview has room for {MOST_PREVIEWS}. Leave some out: "
            "each is drawn at every preview. Sample FLUX LoRA draws any other after the training."
        )


def texts_without_encoder(config: DataConfig, where: str) -> Iterator[str]:
    """What is wrong with texts that are to be encoded where prompts come encoded already, each in words."""
    if config.few_step_phrase.strip():
        yield (
            f"{where}: few_step_phrase is set, but conditioning holds prompts that are encoded already, so that the "
            "phrase cannot be put in front of them. Connect clip and captions instead of conditioning, or leave "
            "few_step_phrase empty and tell the few-step sampler by few_step_guidance."
        )
    names = ("practice_prompts", "outside_prompts", "preview_prompts", "negative_prompt")
    for name, what in zip(names, ("are texts", "are texts", "are texts", "is a text"), strict=True):
        if getattr(config, name).strip():
            yield (
                f"{where}: {name} {what}, and conditioning holds prompts that are encoded already. Connect clip and "
                f"captions instead of conditioning, or leave {name} empty."
            )


def check_posterior(mean: Tensor, std: Tensor | None, crop: Tensor, space: LatentSpace, what: str) -> None:
    """``crop`` (3, H, W) are the pixels that were encoded."""
    try:
        space.check(mean, what)
    except ValueError as error:
        raise DataError(f"{error} {space.vae} is the file {space.file}.") from error
    height, width = crop.shape[1:]
    expected = (1, space.channels, height // space.factor, width // space.factor)
    for tensor, which in ((mean, "mean"), (std, "standard deviation")):
        if tensor is None:
            continue
        if tuple(tensor.shape) != expected:
            raise DataError(
                f"{what}: for {width} x {height} pixels the VAE gave a {which} of the shape {tuple(tensor.shape)}, "
                f"expected {expected}. Encode with {space.vae} ({space.file}), which divides the sides by "
                f"{space.factor}."
            )
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"{what}: the VAE gave a {which} with values that are not finite. Run the VAE in bf16 or fp32."
            )
    if std is not None and std.min() < 0:
        raise DataError(f"{what}: the VAE gave a negative standard deviation; log-variances must be converted first.")


def check_prompt(caption: str, prompt_embeds: Tensor, pooled: Tensor, space: LatentSpace) -> None:
    what = f"Caption {quoted(caption)}"
    if prompt_embeds.ndim != 2 or pooled.ndim != 1 or 0 in prompt_embeds.shape:
        raise DataError(
            f"{what}: expected prompt embeddings (length, width) and pooled embeddings (width,), got "
            f"{tuple(prompt_embeds.shape)} and {tuple(pooled.shape)}. Encode with FLUX's text encoders (T5 and CLIP-L)."
        )
    if pooled.numel() and not space.pooled:
        raise DataError(
            f"{what}: the text encoders gave a pooled vector, and {space.vae} encodes the pictures: bases with its "
            "latents take none. Encode pictures and captions for one base."
        )
    if not pooled.numel() and space.pooled:
        raise DataError(
            f"{what}: the text encoder gave no pooled vector, and {space.vae} encodes the pictures: bases with its "
            "latents need one. Encode pictures and captions for one base."
        )
    if not (torch.isfinite(prompt_embeds).all() and torch.isfinite(pooled).all()):
        raise DataError(
            f"{what}: the text encoders gave values that are not finite. Run them in bf16 or fp32 instead of fp16."
        )


def check_widths(by_caption: Mapping[str, Encoding]) -> None:
    (first, expected), *others = by_caption.items()
    wanted = (expected.shapes["prompt_embeds"][1], expected.shapes["pooled_prompt_embeds"][0])
    for caption, encoding in others:
        found = (encoding.shapes["prompt_embeds"][1], encoding.shapes["pooled_prompt_embeds"][0])
        if found != wanted:
            raise DataError(
                f"Captions {quoted(first)} and {quoted(caption)} have embeddings of different widths: "
                f"{wanted} and {found} (prompt, pooled). Encode all captions with the same text encoders."
            )


def check_phrase(captions: Sequence[str], by_caption: Mapping[str, Encoding], phrase: str) -> None:
    """Each caption with ``phrase`` at its front is as long as without, and not the same."""
    for caption in captions:
        plain, few_step = by_caption[caption], by_caption[with_phrase(phrase, caption)]
        length, few_step_length = plain.shapes["prompt_embeds"][0], few_step.shapes["prompt_embeds"][0]
        if length != few_step_length:
            # Padding would not do: the transformer attends to every token that it is given.
            raise DataError(
                f"Caption {quoted(caption)} is encoded to {length} tokens, and to {few_step_length} with the "
                f"phrase {quoted(phrase)} at its front. Both are trained in one batch and must be equally long: "
                "shorten the caption or the phrase, or leave few_step_phrase empty and tell the few-step sampler by "
                "few_step_guidance."
            )
        if plain.content == few_step.content:
            raise DataError(
                f"Caption {quoted(caption)} is encoded to the same with and without the phrase "
                f"{quoted(phrase)}, so that nothing tells the samplers apart. Choose a few_step_phrase of words that "
                "this text encoder knows."
            )
