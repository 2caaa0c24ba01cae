"""The dataset of both stages: encoded pictures and captions, in memory, never mutated."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .batches import Batch, group_by_shape, held_out_batches, in_few_step_mode, micro_batches, steps_per_epoch
from .buckets import Bucket, buckets, fit, latent_mask, nearest, window
from .families import flux1
from .latent_cache import LatentCache, digest

__all__ = [
    "Batch",
    "DataError",
    "EncodedImage",
    "LatentSample",
    "Prompt",
    "RealLatents",
    "encode",
    "held_out_batches",
    "in_few_step_mode",
    "listed",
    "micro_batches",
    "steps_per_epoch",
    "with_phrase",
]

MAX_HELD_OUT_SHARE = 0.9
CROP_WARNING = 1 / 3
VALUE_TOLERANCE = 0.1

EncodeImage = Callable[[Tensor], tuple[Tensor, Tensor | None]]
EncodePrompt = Callable[[str], tuple[Tensor, Tensor]]


class DataError(ValueError):
    """Pictures, captions, masks or their encodings cannot be trained on. The message names the culprit."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A caption and its encodings: ``prompt_embeds`` (L, D) and ``pooled_prompt_embeds`` (P,), fp32 on the CPU."""

    caption: str
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The VAE's posterior in model space, fp32: ``mean`` and ``std`` (16, h, w). A deterministic VAE has no ``std``."""

    mean: Tensor
    std: Tensor | None


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


@dataclass(frozen=True, eq=False)
class RealLatents:
    """The dataset. ``held_out`` are the indices of samples that are never trained on.

    ``fingerprint`` is a hash of all that a training run can notice: latents, embeddings, masks, flips, order, split.

    With a ``few_step_phrase``, ``few_step_prompts[i]`` is ``prompts[i]`` with the phrase at its front, of the same
    length, and ``few_step_empty_prompt`` is the phrase alone. Without one they are empty and ``None``.
    """

    samples: tuple[LatentSample, ...]
    prompts: tuple[Prompt, ...]
    empty_prompt: Prompt
    held_out: tuple[int, ...]
    fingerprint: str
    few_step_prompts: tuple[Prompt, ...] = ()
    few_step_empty_prompt: Prompt | None = None
    few_step_phrase: str = ""

    @functools.cached_property
    def training(self) -> tuple[int, ...]:
        """The indices of the samples that are trained on."""
        held_out = set(self.held_out)
        return tuple(index for index in range(len(self.samples)) if index not in held_out)

    @functools.cached_property
    def training_deviation(self) -> float:
        """Standard deviation of the training latents within their channels, about 1 for FLUX's VAE on most pictures."""
        latents = [self.samples[index].mean.double().flatten(1) for index in self.training]
        places = sum(each.shape[1] for each in latents)
        means = sum(each.sum(1) for each in latents) / places
        square = sum(each.square().sum() for each in latents) / (places * len(means)) - means.square().mean()
        return float(square.clamp_min(1e-12).sqrt())

    @functools.cached_property
    def training_groups(self) -> tuple[tuple[int, ...], ...]:
        """``training`` in groups of one latent size and one prompt length: those that can share a batch."""
        return group_by_shape(self, self.training)


@dataclass(frozen=True)
class _Picture:
    """What is known of a picture before it is encoded. ``identity`` is the hash of its pixels."""

    name: str
    identity: str
    height: int
    width: int
    bucket: Bucket


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def with_phrase(phrase: str, caption: str) -> str:
    """``caption`` with ``phrase`` at its front: the prompt of the few-step sampler, in training and when sampling.

    The phrase alone for a caption without words, the caption for an empty phrase.
    """
    return ", ".join(part for part in (phrase.strip(), caption) if part.strip())


def encode(
    images: Sequence[Tensor],
    captions: Sequence[str],
    *,
    names: Sequence[str],
    masks: Sequence[Tensor | None] | None,
    encode_image: EncodeImage,
    encode_prompt: EncodePrompt,
    vae_key: str,
    text_key: str,
    resolution: int,
    bucket_step: int,
    flip: bool,
    held_out_share: float,
    seed: int,
    cache_folder: Path | None,
    few_step_phrase: str = "",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[RealLatents, str]:
    """Crop, encode and split a set of captioned pictures. Returns the dataset and a text that describes it.

    ``images`` are (H, W, 3) in [0, 1], ``masks`` (H, W) in [0, 1], 1 where the picture is to be learned; ``None`` in
    ``masks`` is a picture without one. ``encode_image`` takes (1, H, W, 3) and gives the raw posterior mean
    (1, 16, H/8, W/8) and its standard deviation, or ``None`` where the VAE has none. ``encode_prompt`` takes a caption
    and gives (L, D) and (P,). ``vae_key`` and ``text_key`` name the weights behind the two, for the disk cache in
    ``cache_folder`` (``None``: no disk cache). ``report`` is called with (encodings done, encodings in all).
    ``few_step_phrase`` has each caption, and the empty prompt, encoded ``with_phrase`` as well; empty: it has not.

    Equal pictures and equal captions are encoded once. ``held_out_share`` in [0, 0.9] is the share of distinct
    pictures that is held out: at least one of two or more where the share is above 0, never all; equal pictures stay
    on one side. Which ones depends on ``seed`` and the pictures' content alone, so that adding a picture moves few.

    Raises ``ValueError`` for a setting out of range, ``DataError`` for data that cannot be trained on.
    """
    sizes = buckets(resolution, bucket_step)
    if not 0.0 <= held_out_share <= MAX_HELD_OUT_SHARE:
        raise ValueError(f"held_out_share must be from 0 to {MAX_HELD_OUT_SHARE:g}, got {held_out_share!r}.")
    images = list(images)
    _check_counts(images, captions, names, masks)
    pictures = _describe(images, names, sizes)
    latent_masks = _masks(pictures, masks)
    phrase = few_step_phrase.strip()
    plain = [*dict.fromkeys(captions), ""]
    captions_once = list(dict.fromkeys([*plain, *(with_phrase(phrase, caption) for caption in plain)]))
    identities = {picture.identity for picture in pictures}
    total = len(captions_once) + len(identities) * (2 if flip else 1)
    encoder = _Encoder(encode_image, encode_prompt, vae_key, text_key, LatentCache(cache_folder), report, total)

    by_caption = {caption: encoder.prompt(caption) for caption in captions_once}
    _check_widths(list(by_caption.values()))
    prompts = tuple(by_caption[caption] for caption in dict.fromkeys(captions))
    few_step_prompts: tuple[Prompt, ...] = ()
    few_step_empty_prompt = None
    if phrase:
        few_step_prompts = tuple(by_caption[with_phrase(phrase, prompt.caption)] for prompt in prompts)
        few_step_empty_prompt = by_caption[phrase]
        _check_phrase((*prompts, by_caption[""]), (*few_step_prompts, few_step_empty_prompt), phrase)
    number = {prompt.caption: index for index, prompt in enumerate(prompts)}

    encoded: dict[str, tuple[EncodedImage, EncodedImage | None]] = {}
    for image, picture in zip(images, pictures, strict=True):
        if picture.identity not in encoded:
            crop = fit(_pixels(image), picture.bucket)
            mirrored = encoder.image(crop.flip(-1), f"Picture '{picture.name}' (mirrored)") if flip else None
            encoded[picture.identity] = (encoder.image(crop, f"Picture '{picture.name}'"), mirrored)

    samples = []
    for picture, caption, mask in zip(pictures, captions, latent_masks, strict=True):
        straight, mirrored = encoded[picture.identity]
        samples.append(
            LatentSample(
                name=picture.name,
                mean=straight.mean,
                std=straight.std,
                flipped_mean=None if mirrored is None else mirrored.mean,
                flipped_std=None if mirrored is None else mirrored.std,
                mask=mask,
                prompt=number[caption],
            )
        )
    held_out = _held_out([picture.identity for picture in pictures], held_out_share, seed)
    data = RealLatents(
        samples=tuple(samples),
        prompts=prompts,
        empty_prompt=by_caption[""],
        held_out=held_out,
        fingerprint=_fingerprint(samples, prompts, by_caption[""], held_out, few_step_prompts, few_step_empty_prompt),
        few_step_prompts=few_step_prompts,
        few_step_empty_prompt=few_step_empty_prompt,
        few_step_phrase=phrase,
    )
    cached = f"{encoder.hits} of {encoder.done}" if cache_folder is not None else None
    return data, _describe_dataset(data, pictures, captions, held_out_share, cached)


class _Encoder:
    """The two encoders behind the cache, with checked results."""

    def __init__(
        self,
        encode_image: EncodeImage,
        encode_prompt: EncodePrompt,
        vae_key: str,
        text_key: str,
        cache: LatentCache,
        report: Callable[[int, int], None],
        total: int,
    ) -> None:
        self._encode_image = encode_image
        self._encode_prompt = encode_prompt
        self._vae_key = vae_key
        self._text_key = text_key
        self._cache = cache
        self._report = report
        self._total = total
        self.done = 0
        self.hits = 0

    def image(self, crop: Tensor, what: str) -> EncodedImage:
        """Encode pixels (3, H, W). ``what`` names the picture in messages."""
        key = digest("image 1", self._vae_key, crop)
        raw = self._cache.load(key)
        if raw is None:
            mean, std = self._encode_image(crop.permute(1, 2, 0)[None])
            _check_posterior(mean, std, crop, what)
            raw = {"mean": _own(mean[0])} if std is None else {"mean": _own(mean[0]), "std": _own(std[0])}
            self._cache.store(key, raw)
        else:
            self.hits += 1
        self._advance()
        std = raw.get("std")
        return EncodedImage(
            mean=_own(flux1.normalise(raw["mean"])), std=None if std is None else _own(std * flux1.VAE_SCALE)
        )

    def prompt(self, caption: str) -> Prompt:
        key = digest("prompt 1", self._text_key, caption)
        found = self._cache.load(key)
        if found is None:
            prompt_embeds, pooled = self._encode_prompt(caption)
            _check_prompt(caption, prompt_embeds, pooled)
            found = {"prompt_embeds": _own(prompt_embeds), "pooled_prompt_embeds": _own(pooled)}
            self._cache.store(key, found)
        else:
            self.hits += 1
        self._advance()
        return Prompt(caption, _own(found["prompt_embeds"]), _own(found["pooled_prompt_embeds"]))

    def _advance(self) -> None:
        self.done += 1
        self._report(self.done, self._total)


def _own(tensor: Tensor) -> Tensor:
    """A contiguous fp32 CPU copy that autograd may save: the host calls us in inference mode, training leaves it."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)


def _check_counts(
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


def _describe(images: Sequence[Tensor], names: Sequence[str], sizes: tuple[Bucket, ...]) -> list[_Picture]:
    # Repeats are views of the same memory: hashing it once saves seconds for each hundred megapixels.
    identities: dict[tuple, str] = {}
    pictures = []
    for image, name in zip(images, names, strict=True):
        memory = (image.device, image.data_ptr(), image.shape, image.stride(), image.dtype)
        if memory not in identities:
            _check_picture(image, name)
            identities[memory] = digest(image)
        height, width = image.shape[:2]
        pictures.append(_Picture(name, identities[memory], height, width, nearest(height, width, sizes)))
    return pictures


def _check_picture(image: Tensor, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"Picture '{name}': expected pixels (height, width, 3), got {tuple(image.shape)}. Give single RGB "
            "pictures; split a batch, and put transparent pictures on a background first."
        )
    if not image.is_floating_point():
        raise DataError(f"Picture '{name}': expected floating-point pixels in [0, 1], got {image.dtype}.")
    if not torch.isfinite(image).all():
        raise DataError(f"Picture '{name}' holds values that are not finite. Load or make it again.")
    low, high = image.min().item(), image.max().item()
    if low < -VALUE_TOLERANCE or high > 1 + VALUE_TOLERANCE:
        raise DataError(f"Picture '{name}' has values from {low:g} to {high:g}; pixels must be in [0, 1].")


def _pixels(image: Tensor) -> Tensor:
    """(H, W, 3) as given -> (3, H, W), fp32, CPU, in [0, 1]: resamplers in the graph overshoot a little."""
    return image.detach().to("cpu", torch.float32).permute(2, 0, 1).clamp(0.0, 1.0)


def _masks(pictures: Sequence[_Picture], masks: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    if masks is None:
        return [None] * len(pictures)
    resampled: list[Tensor | None] = []
    for picture, mask in zip(pictures, masks, strict=True):
        if mask is None:
            resampled.append(None)
            continue
        if tuple(mask.shape) != (picture.height, picture.width):
            raise DataError(
                f"The mask of picture '{picture.name}' has the shape {tuple(mask.shape)}, the picture is "
                f"{picture.height} high and {picture.width} wide. Give a mask (height, width) of the picture's size."
            )
        mask = mask.detach().to("cpu", torch.float32)
        if not torch.isfinite(mask).all() or mask.min() < -VALUE_TOLERANCE or mask.max() > 1 + VALUE_TOLERANCE:
            raise DataError(f"The mask of picture '{picture.name}' has values outside [0, 1].")
        small = _own(latent_mask(mask.clamp(0.0, 1.0), picture.bucket))
        if small.sum() <= 0:
            raise DataError(
                f"The mask of picture '{picture.name}' is 0 everywhere, so nothing of the picture would be learned. "
                "Paint what is to be learned in white, or remove the picture."
            )
        resampled.append(small)
    return resampled


def _check_posterior(mean: Tensor, std: Tensor | None, crop: Tensor, what: str) -> None:
    """``crop`` (3, H, W) are the pixels that were encoded."""
    try:
        flux1.check_latents(mean, what)
    except ValueError as error:
        raise DataError(f"{error} FLUX's VAE is the file ae.safetensors.") from error
    height, width = crop.shape[1:]
    expected = (1, flux1.LATENT_CHANNELS, height // flux1.VAE_FACTOR, width // flux1.VAE_FACTOR)
    for tensor, which in ((mean, "mean"), (std, "standard deviation")):
        if tensor is None:
            continue
        if tuple(tensor.shape) != expected:
            raise DataError(
                f"{what}: for {width} x {height} pixels the VAE gave a {which} of the shape {tuple(tensor.shape)}, "
                f"expected {expected}. Encode with FLUX's own VAE (ae.safetensors), which divides the sides by "
                f"{flux1.VAE_FACTOR}."
            )
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"{what}: the VAE gave a {which} with values that are not finite. Run the VAE in bf16 or fp32."
            )
    if std is not None and std.min() < 0:
        raise DataError(f"{what}: the VAE gave a negative standard deviation; log-variances must be converted first.")


def _check_prompt(caption: str, prompt_embeds: Tensor, pooled: Tensor) -> None:
    what = f"Caption {_quoted(caption)}"
    if prompt_embeds.ndim != 2 or pooled.ndim != 1 or 0 in prompt_embeds.shape:
        raise DataError(
            f"{what}: expected prompt embeddings (length, width) and pooled embeddings (width,), got "
            f"{tuple(prompt_embeds.shape)} and {tuple(pooled.shape)}. Encode with FLUX's text encoders (T5 and CLIP-L)."
        )
    if not (torch.isfinite(prompt_embeds).all() and torch.isfinite(pooled).all()):
        raise DataError(
            f"{what}: the text encoders gave values that are not finite. Run them in bf16 or fp32 instead of fp16."
        )


def _check_widths(prompts: Sequence[Prompt]) -> None:
    first = prompts[0]
    wanted = (first.prompt_embeds.shape[1], first.pooled_prompt_embeds.shape[0])
    for prompt in prompts:
        found = (prompt.prompt_embeds.shape[1], prompt.pooled_prompt_embeds.shape[0])
        if found != wanted:
            raise DataError(
                f"Captions {_quoted(first.caption)} and {_quoted(prompt.caption)} have embeddings of different widths: "
                f"{wanted} and {found} (prompt, pooled). Encode all captions with the same text encoders."
            )


def _check_phrase(prompts: Sequence[Prompt], few_step_prompts: Sequence[Prompt], phrase: str) -> None:
    """``few_step_prompts`` are ``prompts`` with ``phrase``: as long as they are, and not the same."""
    for plain, few_step in zip(prompts, few_step_prompts, strict=True):
        length, few_step_length = plain.prompt_embeds.shape[0], few_step.prompt_embeds.shape[0]
        if length != few_step_length:
            # Padding would not do: the transformer attends to every token that it is given.
            raise DataError(
                f"Caption {_quoted(plain.caption)} is encoded to {length} tokens, and to {few_step_length} with the "
                f"phrase {_quoted(phrase)} at its front. Both are trained in one batch and must be equally long: "
                "shorten the caption or the phrase, or leave few_step_phrase empty and tell the few-step sampler by "
                "few_step_guidance."
            )
        pairs = (
            (plain.prompt_embeds, few_step.prompt_embeds),
            (plain.pooled_prompt_embeds, few_step.pooled_prompt_embeds),
        )
        if all(torch.equal(one, other) for one, other in pairs):
            raise DataError(
                f"Caption {_quoted(plain.caption)} is encoded to the same with and without the phrase "
                f"{_quoted(phrase)}, so that nothing tells the samplers apart. Choose a few_step_phrase of words that "
                "this text encoder knows."
            )


def _quoted(caption: str, longest: int = 60) -> str:
    if not caption:
        return "'' (the empty prompt)"
    return f"'{caption}'" if len(caption) <= longest else f"'{caption[:longest]}…'"


def _held_out(identities: Sequence[str], share: float, seed: int) -> tuple[int, ...]:
    """Ranks contents by their own hash with the seed: a picture's rank does not depend on the others."""
    distinct = sorted(set(identities), key=lambda identity: digest(str(seed), identity))
    if share == 0 or len(distinct) < 2:
        return ()
    count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    chosen = set(distinct[:count])
    return tuple(index for index, identity in enumerate(identities) if identity in chosen)


def _fingerprint(
    samples: Sequence[LatentSample],
    prompts: Sequence[Prompt],
    empty_prompt: Prompt,
    held_out: tuple[int, ...],
    few_step_prompts: Sequence[Prompt],
    few_step_empty_prompt: Prompt | None,
) -> str:
    known: dict[int, str] = {}

    def of(tensor: Tensor | None) -> str:
        if tensor is None:
            return "none"
        if id(tensor) not in known:
            known[id(tensor)] = digest(tensor)
        return known[id(tensor)]

    parts = ["real latents 1"]
    for prompt in (*prompts, empty_prompt):
        parts += ["prompt", of(prompt.prompt_embeds), of(prompt.pooled_prompt_embeds)]
    for sample in samples:
        posteriors = (sample.mean, sample.std, sample.flipped_mean, sample.flipped_std)
        parts += ["sample", *(of(tensor) for tensor in posteriors), of(sample.mask), str(sample.prompt)]
    parts.append(f"held out {held_out}")
    # Only with a phrase, so that a dataset without one keeps the fingerprint that LoRAs and checkpoints know it by.
    if few_step_empty_prompt is not None:
        for prompt in (*few_step_prompts, few_step_empty_prompt):
            parts += ["few-step prompt", of(prompt.prompt_embeds), of(prompt.pooled_prompt_embeds)]
    return digest(*parts)


def _describe_dataset(
    data: RealLatents, pictures: Sequence[_Picture], captions: Sequence[str], share: float, cached: str | None
) -> str:
    distinct = len({picture.identity for picture in pictures})
    words = [len(caption.split()) for caption in captions]
    lines = [
        f"Pictures: {len(pictures)}, of which {distinct} distinct.",
        f"Captions: {len(set(captions))} distinct, {sum(not caption.strip() for caption in captions)} empty; "
        f"{min(words)} to {max(words)} words, median {statistics.median(words):g}.",
    ]
    counts = Counter(picture.bucket for picture in pictures)
    sizes = ", ".join(f"{width} x {height}: {counts[height, width]}" for height, width in sorted(counts))
    lines.append(f"Buckets (width x height in pixels: pictures): {sizes}.")
    lengths = Counter(data.prompts[sample.prompt].prompt_embeds.shape[0] for sample in data.samples)
    if len(lengths) > 1:
        tokens = ", ".join(f"{length}: {lengths[length]}" for length in sorted(lengths))
        lines.append(f"Prompt lengths (tokens: pictures): {tokens}. Only prompts of one length share a batch.")
    if data.few_step_phrase:
        example = _quoted(data.few_step_prompts[0].caption)
        lines.append(f"Few-step phrase: each caption is also encoded with it at its front, such as {example}.")
    lines.append(f"Training: {len(data.training)}. Held out: {len(data.held_out)}.")
    if cached is not None:
        lines.append(f"Encodings found in the cache: {cached}.")
    return "\n".join(lines + [f"Warning: {warning}" for warning in _warnings(data, pictures, captions, share)])


def _warnings(data: RealLatents, pictures: Sequence[_Picture], captions: Sequence[str], share: float) -> list[str]:
    once = {picture.identity: picture for picture in reversed(pictures)}.values()
    warnings = []
    small = [p.name for p in once if max(p.bucket[0] / p.height, p.bucket[1] / p.width) > 1]
    if small:
        warnings.append(
            f"pictures smaller than their bucket: {len(small)} ({listed(sorted(small))}). They were enlarged, which "
            "teaches blur: use larger pictures or a lower resolution."
        )
    cropped = []
    for picture in once:
        _, _, height, width = window(picture.height, picture.width, picture.bucket)
        if 1 - height * width / (picture.height * picture.width) > CROP_WARNING:
            cropped.append(picture.name)
    if cropped:
        warnings.append(
            f"pictures that lose more than a third to the crop: {len(cropped)} ({listed(sorted(cropped))})."
        )
    names: dict[str, list[str]] = {}
    for picture in pictures:
        names.setdefault(picture.identity, []).append(picture.name)
    copies = sorted(min(group) for group in names.values() if len(set(group)) > 1)
    if copies:
        warnings.append(
            f"pictures that are there under several names: {len(copies)} ({listed(copies)}). They weigh more in "
            "training: remove the copies."
        )
    empty = sum(not caption.strip() for caption in captions)
    if empty and empty < len(captions):
        warnings.append(f"empty captions: {empty} of {len(captions)}.")
    phrase = data.few_step_phrase.casefold()
    holding = [p.name for p, caption in zip(pictures, captions, strict=True) if phrase and phrase in caption.casefold()]
    if holding:
        warnings.append(
            f"pictures whose caption holds the few-step phrase already: {len(holding)} ({listed(holding)}). The LoRA "
            "cannot tell the two samplers by it: choose a phrase that is in no caption."
        )
    if share > 0 and not data.held_out:
        warnings.append("nothing is held out, because there are not two different pictures.")
    return warnings
