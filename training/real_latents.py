"""The dataset of both stages: encoded pictures and captions, in memory or in the cache on disk, never mutated."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .batches import Batch, group_by_shape, held_out_batches, in_few_step_mode, micro_batches, steps_per_epoch
from .buckets import Bucket, buckets, fit, latent_mask, nearest, window
from .data_error import DataError
from .encodings import MOST_IN_MEMORY, Encodings
from .families import flux1
from .image_sources import FileSequence
from .known_files import Known, KnownFiles
from .latent_cache import LatentCache, digest, digest_all
from .stored_latents import (
    Encoding,
    Shelf,
    StoredPrompt,
    StoredSample,
    Tensors,
    as_they_are,
    own,
    posterior,
)

__all__ = [
    "Batch",
    "DataError",
    "LatentSample",
    "MOST_IN_MEMORY",
    "Prompt",
    "RealLatents",
    "encode",
    "held_out_batches",
    "in_few_step_mode",
    "listed",
    "micro_batches",
    "spread",
    "steps_per_epoch",
    "with_phrase",
]

MAX_HELD_OUT_SHARE = 0.9
MOST_MEASURED = 4096
CROP_WARNING = 1 / 3
VALUE_TOLERANCE = 0.1

EncodeImage = Callable[[Tensor], tuple[Tensor, Tensor | None]]
EncodePrompt = Callable[[str], tuple[Tensor, Tensor]]


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
    """

    samples: tuple[LatentSample | StoredSample, ...]
    prompts: tuple[Prompt | StoredPrompt, ...]
    empty_prompt: Prompt | StoredPrompt
    held_out: tuple[int, ...]
    fingerprint: str
    few_step_prompts: tuple[Prompt | StoredPrompt, ...] = ()
    few_step_empty_prompt: Prompt | StoredPrompt | None = None
    few_step_phrase: str = ""

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


@dataclass(frozen=True)
class _Picture:
    """What is known of a picture before it is encoded. ``identity`` is the hash of its pixels."""

    name: str
    identity: str
    height: int
    width: int
    bucket: Bucket


def spread(indices: Sequence[int], most: int) -> tuple[int, ...]:
    """``indices``, or ``most`` of them at equal distances where there are more."""
    if len(indices) <= most:
        return tuple(indices)
    return tuple(indices[place * len(indices) // most] for place in range(most))


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
    most_in_memory: int = MOST_IN_MEMORY,
) -> tuple[RealLatents, str]:
    """Crop, encode and split a set of captioned pictures. Returns the dataset and a text that describes it.

    ``images`` are (H, W, 3) in [0, 1], ``masks`` (H, W) in [0, 1], 1 where the picture is to be learned; ``None`` in
    ``masks`` is a picture without one. Both may be a ``FileSequence``, of which no more than one picture is in memory
    at a time, and none where the file is known from before. ``encode_image`` takes (1, H, W, 3) and gives the raw
    posterior mean (1, 16, H/8, W/8) and its standard deviation, or ``None`` where the VAE has none. ``encode_prompt``
    takes a caption and gives (L, D) and (P,). ``vae_key`` and ``text_key`` name the weights behind the two, for the
    disk cache in ``cache_folder`` (``None``: no disk cache). ``report`` is called with (encodings done, encodings in
    all); what it raises ends the work, and the next call goes on from the cache. ``few_step_phrase`` has each caption,
    and the empty prompt, encoded ``with_phrase`` as well; empty: it has not. More than ``most_in_memory`` bytes of
    encodings are left in the cache and read from there.

    Equal pictures and equal captions are encoded once. ``held_out_share`` in [0, 0.9] is the share of distinct
    pictures that is held out: at least one of two or more where the share is above 0, never all; equal pictures stay
    on one side. Which ones depends on ``seed`` and the pictures' content alone, so that adding a picture moves few.

    Raises ``ValueError`` for a setting out of range, ``DataError`` for data that cannot be trained on.
    """
    sizes = buckets(resolution, bucket_step)
    if not 0.0 <= held_out_share <= MAX_HELD_OUT_SHARE:
        raise ValueError(f"held_out_share must be from 0 to {MAX_HELD_OUT_SHARE:g}, got {held_out_share!r}.")
    _check_counts(images, captions, names, masks)
    cache = LatentCache(cache_folder)
    cache.remove_leftovers()
    store = Encodings(cache, most_in_memory)
    with KnownFiles(cache_folder) as known:
        pictures = _describe(images, names, sizes, known, report)
        latent_masks = _masks(pictures, masks, store, known, report)
    phrase = few_step_phrase.strip()
    plain = [*dict.fromkeys(captions), ""]
    captions_once = list(dict.fromkeys([*plain, *(with_phrase(phrase, caption) for caption in plain)]))
    distinct = {picture.identity: index for index, picture in enumerate(pictures)}
    ways = (False, True) if flip else (False,)
    total = len(captions_once) + len(distinct) * len(ways)
    encoder = _Encoder(encode_image, encode_prompt, vae_key, text_key, store, report, total)

    by_caption = {caption: encoder.prompt(caption) for caption in captions_once}
    _check_widths(by_caption)
    if phrase:
        _check_phrase(plain, by_caption, phrase)
    store.expect(len(ways) * sum(_latent_bytes(pictures[index].bucket) for index in distinct.values()))
    encoded = {
        identity: [encoder.image(images, index, pictures[index], mirrored) for mirrored in ways]
        for identity, index in distinct.items()
    }
    prompts = list(dict.fromkeys(captions))
    number = {caption: index for index, caption in enumerate(prompts)}
    held_out = _held_out([picture.identity for picture in pictures], held_out_share, seed)
    few_step = [with_phrase(phrase, caption) for caption in prompts] if phrase else []
    make = _Maker(store, cache)
    data = RealLatents(
        samples=tuple(
            make.sample(picture.name, number[caption], *encoded[picture.identity], mask=mask)
            for picture, caption, mask in zip(pictures, captions, latent_masks, strict=True)
        ),
        prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in prompts),
        empty_prompt=make.prompt("", by_caption[""]),
        held_out=held_out,
        fingerprint=_fingerprint(
            [by_caption[caption] for caption in [*prompts, ""]],
            [
                (*encoded[picture.identity], mask, number[caption])
                for picture, caption, mask in zip(pictures, captions, latent_masks, strict=True)
            ],
            held_out,
            [by_caption[caption] for caption in [*few_step, phrase]] if phrase else [],
        ),
        few_step_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in few_step),
        few_step_empty_prompt=make.prompt(phrase, by_caption[phrase]) if phrase else None,
        few_step_phrase=phrase,
    )
    cached = f"{encoder.hits} of {encoder.done}" if cache_folder is not None else None
    return data, _describe_dataset(data, pictures, captions, held_out_share, cached)


class _Maker:
    """Samples and prompts of encodings: with their tensors, or with the way to them in the cache."""

    def __init__(self, store: Encodings, cache: LatentCache) -> None:
        self._store = store
        self._shelf = Shelf(cache) if store.stored else None

    def sample(
        self, name: str, prompt: int, straight: Encoding, mirrored: Encoding | None = None, *, mask: Encoding | None
    ) -> LatentSample | StoredSample:
        if self._shelf is not None:
            return StoredSample(name, prompt, self._shelf, straight, mirrored, mask)
        latents = self._store.tensors(straight)
        flipped = {} if mirrored is None else self._store.tensors(mirrored)
        return LatentSample(
            name=name,
            mean=latents["mean"],
            std=latents.get("std"),
            flipped_mean=flipped.get("mean"),
            flipped_std=flipped.get("std"),
            mask=None if mask is None else self._store.tensors(mask)["mask"],
            prompt=prompt,
        )

    def prompt(self, caption: str, encoding: Encoding) -> Prompt | StoredPrompt:
        if self._shelf is not None:
            return StoredPrompt(caption, self._shelf, encoding)
        return Prompt(caption, **self._store.tensors(encoding))


class _Encoder:
    """The two encoders behind the cache, with checked results."""

    def __init__(
        self,
        encode_image: EncodeImage,
        encode_prompt: EncodePrompt,
        vae_key: str,
        text_key: str,
        store: Encodings,
        report: Callable[[int, int], None],
        total: int,
    ) -> None:
        self._encode_image = encode_image
        self._encode_prompt = encode_prompt
        self._vae_key = vae_key
        self._text_key = text_key
        self._store = store
        self._report = report
        self._total = total
        self.done = 0
        self.hits = 0

    def image(self, images: Sequence[Tensor], index: int, picture: _Picture, mirrored: bool) -> Encoding:
        """Encode picture ``index``, or its mirror image; its pixels are looked at only where that is not done yet."""
        way = "mirrored" if mirrored else "straight"

        def make() -> Tensors:
            crop = fit(_pixels(images[index]), picture.bucket)
            crop = crop.flip(-1) if mirrored else crop
            mean, std = self._encode_image(crop.permute(1, 2, 0)[None])
            what = f"Picture '{picture.name}'" + (" (mirrored)" if mirrored else "")
            _check_posterior(mean, std, crop, what)
            return {"mean": own(mean[0])} if std is None else {"mean": own(mean[0]), "std": own(std[0])}

        key = digest("image 2", self._vae_key, picture.identity, str(picture.bucket), way)
        return self._get(key, make, posterior)

    def prompt(self, caption: str) -> Encoding:
        def make() -> Tensors:
            prompt_embeds, pooled = self._encode_prompt(caption)
            _check_prompt(caption, prompt_embeds, pooled)
            return {"prompt_embeds": own(prompt_embeds), "pooled_prompt_embeds": own(pooled)}

        return self._get(digest("prompt 1", self._text_key, caption), make, as_they_are)

    def _get(
        self, key: str, make: Callable[[], Tensors], convert: Callable[[Tensors], dict[str, Tensor]]
    ) -> Encoding:
        encoding, found = self._store.get(key, make, convert)
        self.hits += found
        self.done += 1
        self._report(self.done, self._total)
        return encoding


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


def _latent_bytes(bucket: Bucket) -> int:
    return 4 * flux1.LATENT_CHANNELS * (bucket[0] // flux1.VAE_FACTOR) * (bucket[1] // flux1.VAE_FACTOR)


def _describe(
    images: Sequence[Tensor],
    names: Sequence[str],
    sizes: tuple[Bucket, ...],
    known: KnownFiles,
    report: Callable[[int, int], None],
) -> list[_Picture]:
    read = _Once(images, lambda index, image: _check_picture(image, names[index]), known)
    pictures = []
    for index, name in enumerate(names):
        identity, height, width = read.known(index)
        pictures.append(_Picture(name, identity, height, width, nearest(height, width, sizes)))
        # Nothing is encoded yet, but to read many files takes its time, and may be cancelled.
        if isinstance(images, FileSequence):
            report(0, len(names))
    return pictures


class _Once:
    """What pixels or masks are, each read once: repeats share their memory or their file.

    Hashing memory once saves seconds for each hundred megapixels; a file that is known is not even opened.
    """

    def __init__(
        self, items: Sequence[Tensor | None], check: Callable[[int, Tensor], None], known: KnownFiles
    ) -> None:
        self._items, self._check, self._files = items, check, known
        self._memory: dict[tuple, Known] = {}

    def known(self, index: int) -> Known:
        """Of item ``index``; an identity without pixels where there is none."""
        state = self._items.state(index) if isinstance(self._items, FileSequence) else None
        found = None if state is None else self._files.find(state)
        if found is None:
            found = self._read(index, self._items[index], in_memory=state is None)
            if state is not None:
                self._files.keep(state, found)
        return found

    def _read(self, index: int, item: Tensor | None, in_memory: bool) -> Known:
        if item is None:
            return Known("", 0, 0)
        # Of a file's pixels nothing but this is kept, so that their place in memory is soon another's.
        memory = (item.device, item.data_ptr(), item.shape, item.stride(), item.dtype) if in_memory else ()
        if memory not in self._memory or not in_memory:
            self._check(index, item)
            self._memory[memory] = Known(digest(item), *item.shape[:2])
        return self._memory[memory]


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


def _masks(
    pictures: Sequence[_Picture],
    masks: Sequence[Tensor | None] | None,
    store: Encodings,
    known: KnownFiles,
    report: Callable[[int, int], None],
) -> list[Encoding | None]:
    """The masks in the size of the latents, as encodings with the one tensor ``mask`` (1, h, w)."""
    if masks is None:
        return [None] * len(pictures)
    read = _Once(masks, lambda index, mask: _check_mask(mask, pictures[index]), known)
    resampled: list[Encoding | None] = []
    for index, picture in enumerate(pictures):
        identity, height, width = read.known(index)
        if not identity:
            resampled.append(None)
            continue
        if (height, width) != (picture.height, picture.width):
            raise DataError(
                f"The mask of picture '{picture.name}' has the shape {(height, width)}, the picture is "
                f"{picture.height} high and {picture.width} wide. Give a mask (height, width) of the picture's size."
            )

        def make(index: int = index, picture: _Picture = picture) -> Tensors:
            mask = masks[index]
            assert mask is not None
            small = own(latent_mask(mask.detach().to("cpu", torch.float32).clamp(0.0, 1.0), picture.bucket))
            if small.sum() <= 0:
                raise DataError(
                    f"The mask of picture '{picture.name}' is 0 everywhere, so nothing of the picture would be "
                    "learned. Paint what is to be learned in white, or remove the picture."
                )
            return {"mask": small}

        resampled.append(store.get(digest("mask 1", identity, str(picture.bucket)), make, as_they_are)[0])
        if isinstance(masks, FileSequence):
            report(0, len(pictures))
    return resampled


def _check_mask(mask: Tensor, picture: _Picture) -> None:
    if tuple(mask.shape) != (picture.height, picture.width):
        raise DataError(
            f"The mask of picture '{picture.name}' has the shape {tuple(mask.shape)}, the picture is "
            f"{picture.height} high and {picture.width} wide. Give a mask (height, width) of the picture's size."
        )
    mask = mask.detach().to("cpu", torch.float32)
    if not torch.isfinite(mask).all() or mask.min() < -VALUE_TOLERANCE or mask.max() > 1 + VALUE_TOLERANCE:
        raise DataError(f"The mask of picture '{picture.name}' has values outside [0, 1].")


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


def _check_widths(by_caption: Mapping[str, Encoding]) -> None:
    (first, expected), *others = by_caption.items()
    wanted = (expected.shapes["prompt_embeds"][1], expected.shapes["pooled_prompt_embeds"][0])
    for caption, encoding in others:
        found = (encoding.shapes["prompt_embeds"][1], encoding.shapes["pooled_prompt_embeds"][0])
        if found != wanted:
            raise DataError(
                f"Captions {_quoted(first)} and {_quoted(caption)} have embeddings of different widths: "
                f"{wanted} and {found} (prompt, pooled). Encode all captions with the same text encoders."
            )


def _check_phrase(captions: Sequence[str], by_caption: Mapping[str, Encoding], phrase: str) -> None:
    """Each caption with ``phrase`` at its front is as long as without, and not the same."""
    for caption in captions:
        plain, few_step = by_caption[caption], by_caption[with_phrase(phrase, caption)]
        length, few_step_length = plain.shapes["prompt_embeds"][0], few_step.shapes["prompt_embeds"][0]
        if length != few_step_length:
            # Padding would not do: the transformer attends to every token that it is given.
            raise DataError(
                f"Caption {_quoted(caption)} is encoded to {length} tokens, and to {few_step_length} with the "
                f"phrase {_quoted(phrase)} at its front. Both are trained in one batch and must be equally long: "
                "shorten the caption or the phrase, or leave few_step_phrase empty and tell the few-step sampler by "
                "few_step_guidance."
            )
        if plain.content == few_step.content:
            raise DataError(
                f"Caption {_quoted(caption)} is encoded to the same with and without the phrase "
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
    prompts: Sequence[Encoding],
    samples: Sequence[tuple[Encoding | int | None, ...]],
    held_out: tuple[int, ...],
    few_step_prompts: Sequence[Encoding],
) -> str:
    """``prompts`` and ``few_step_prompts`` end with the empty one; a sample is its encodings, mask and prompt."""

    def parts() -> Iterator[str]:
        yield "real latents 2"
        for prompt in prompts:
            yield f"prompt {prompt.content}"
        for sample in samples:
            yield " ".join(["sample", *(part.content if isinstance(part, Encoding) else str(part) for part in sample)])
        yield f"held out {held_out}"
        for prompt in few_step_prompts:
            yield f"few-step prompt {prompt.content}"

    return digest_all(parts())


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
    lengths = Counter(data.prompts[sample.prompt].length for sample in data.samples)
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
