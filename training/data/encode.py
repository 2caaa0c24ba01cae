"""From captioned pictures to the dataset: each distinct picture and caption encoded once, or found in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..base.families.latent_space import FLUX_1, LatentSpace
from .alike import alike
from .buckets import Bucket, buckets, fit
from .dataset_report import describe_dataset
from .encoding_checks import (
    check_counts,
    check_phrase,
    check_posterior,
    check_previews,
    check_prompt,
    check_widths,
)
from .encodings import MOST_IN_MEMORY, Encodings
from .known_files import KnownFiles
from .latent_cache import LatentCache, digest, digest_all
from .pictures import Picture, described, latent_masks, pixels_of
from .real_latents import LatentSample, Prompt, RealLatents, with_phrase
from .remarks import Remarks
from .stored_latents import Encoding, Shelf, StoredPrompt, StoredSample, Tensors, as_they_are, own, posterior

MAX_HELD_OUT_SHARE = 0.9

EncodeImage = Callable[[Tensor], tuple[Tensor, Tensor | None]]
EncodePrompt = Callable[[str], tuple[Tensor, Tensor]]


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
    space: LatentSpace = FLUX_1,
    few_step_phrase: str = "",
    practice_prompts: str = "",
    outside_prompts: str = "",
    preview_prompts: str = "",
    negative_prompt: str = "",
    report: Callable[[int, int], None] = lambda done, total: None,
    most_in_memory: int = MOST_IN_MEMORY,
) -> tuple[RealLatents, str]:
    """Crop, encode and split a set of captioned pictures. Returns the dataset and a text that describes it.

    ``images`` are (H, W, 3) in [0, 1], ``masks`` (H, W) in [0, 1], 1 where the picture is to be learned; ``None`` in
    ``masks`` is a picture without one. Both may be a ``FileSequence``, of which no more than one picture is in memory
    at a time, and none where the file is known from before. ``encode_image`` takes (1, H, W, 3) and gives the raw
    posterior mean (1, C, H/f, W/f) in ``space`` and its standard deviation, or ``None`` where the VAE has none.
    ``encode_prompt`` takes a caption and gives (L, D) and (P,), where P is 0 in a ``space`` without pooled prompts.
    ``vae_key`` and ``text_key`` name the weights behind the two, for the disk cache in ``cache_folder`` (``None``: no
    disk cache). ``report`` is called with (encodings done, encodings in all); what it raises ends the work, and the
    next call goes on from the cache. ``few_step_phrase`` has each caption, and the empty prompt, encoded
    ``with_phrase`` as well; empty: it has not. ``practice_prompts``, ``outside_prompts`` and ``preview_prompts``
    are prompts without pictures, one a line, the last ``with_phrase`` as well; ``negative_prompt`` is one more. More
    than ``most_in_memory`` bytes of encodings are left in the cache and read from there.

    Equal pictures and equal captions are encoded once. ``held_out_share`` in [0, 0.9] is the share of distinct
    pictures that is held out: at least one of two or more where the share is above 0, never all; equal pictures, and
    those that are ``alike``, stay on one side as far as that allows. Which ones depends on ``seed`` and the pictures'
    content alone, so that adding a picture moves few.

    Raises ``ValueError`` for a setting out of range, ``DataError`` for data that cannot be trained on.
    """
    sizes = buckets(resolution, bucket_step)
    if not 0.0 <= held_out_share <= MAX_HELD_OUT_SHARE:
        raise ValueError(f"held_out_share must be from 0 to {MAX_HELD_OUT_SHARE:g}, got {held_out_share!r}.")
    check_counts(images, captions, names, masks)
    practice, outside, shown = (lines_of(text) for text in (practice_prompts, outside_prompts, preview_prompts))
    check_previews(shown)
    cache = LatentCache(cache_folder)
    cache.remove_leftovers()
    store = Encodings(cache, most_in_memory)
    remarks = Remarks()
    with KnownFiles(cache_folder) as known:
        pictures = described(images, names, sizes, known, remarks, report)
        small_masks = latent_masks(pictures, masks, space.factor, store, known, remarks, report)
    phrase = few_step_phrase.strip()
    plain = [*dict.fromkeys(captions), ""]
    few_step_shown = [with_phrase(phrase, caption) for caption in shown] if phrase else []
    few_step_all = [with_phrase(phrase, caption) for caption in plain]
    negative = negative_prompt.strip()
    captions_once = list(dict.fromkeys([*plain, *few_step_all, *practice, *outside, *shown, *few_step_shown, negative]))
    distinct = {picture.identity: index for index, picture in enumerate(pictures)}
    ways = (False, True) if flip else (False,)
    total = len(captions_once) + len(distinct) * len(ways)
    encoder = _Encoder(encode_image, encode_prompt, vae_key, text_key, space, store, report, total)

    by_caption = {caption: encoder.prompt(caption) for caption in captions_once}
    check_widths(by_caption)
    if phrase:
        check_phrase(plain, by_caption, phrase)
    store.expect(len(ways) * sum(_latent_bytes(pictures[index].bucket, space) for index in distinct.values()))
    encoded = {
        identity: [encoder.image(images, index, pictures[index], mirrored) for mirrored in ways]
        for identity, index in distinct.items()
    }
    prompts = list(dict.fromkeys(captions))
    number = {caption: index for index, caption in enumerate(prompts)}
    kin = _kin(pictures)
    held_out = _held_out([picture.identity for picture in pictures], kin, held_out_share, seed)
    few_step = [with_phrase(phrase, caption) for caption in prompts] if phrase else []
    make = _Maker(store, cache)
    data = RealLatents(
        samples=tuple(
            make.sample(picture.name, number[caption], *encoded[picture.identity], mask=mask)
            for picture, caption, mask in zip(pictures, captions, small_masks, strict=True)
        ),
        prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in prompts),
        empty_prompt=make.prompt("", by_caption[""]),
        held_out=held_out,
        fingerprint=_fingerprint(
            [by_caption[caption] for caption in [*prompts, ""]],
            [
                (*encoded[picture.identity], mask, number[caption])
                for picture, caption, mask in zip(pictures, captions, small_masks, strict=True)
            ],
            held_out,
            [by_caption[caption] for caption in [*few_step, phrase]] if phrase else [],
        ),
        few_step_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in few_step),
        few_step_empty_prompt=make.prompt(phrase, by_caption[phrase]) if phrase else None,
        few_step_phrase=phrase,
        practice_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in practice),
        practice_fingerprint=digest(*(by_caption[caption].content for caption in practice)) if practice else "",
        outside_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in outside),
        outside_fingerprint=digest(*(by_caption[caption].content for caption in outside)) if outside else "",
        preview_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in shown),
        few_step_preview_prompts=tuple(make.prompt(caption, by_caption[caption]) for caption in few_step_shown),
        negative_prompt=make.prompt(negative, by_caption[negative]) if negative else None,
        negative_fingerprint=by_caption[negative].content if negative else "",
        resolution=resolution,
    )
    cached = f"{encoder.hits} of {encoder.done}" if cache_folder is not None else None
    return data, describe_dataset(data, pictures, captions, kin, remarks, held_out_share, cached)


def lines_of(text: str) -> list[str]:
    """The lines that have words, each once."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


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
        space: LatentSpace,
        store: Encodings,
        report: Callable[[int, int], None],
        total: int,
    ) -> None:
        self._encode_image = encode_image
        self._encode_prompt = encode_prompt
        self._vae_key = vae_key
        self._text_key = text_key
        self._space = space
        self._store = store
        self._report = report
        self._total = total
        self.done = 0
        self.hits = 0

    def image(self, images: Sequence[Tensor], index: int, picture: Picture, mirrored: bool) -> Encoding:
        """Encode picture ``index``, or its mirror image; its pixels are looked at only where that is not done yet."""
        way = "mirrored" if mirrored else "straight"

        def make() -> Tensors:
            crop = fit(pixels_of(images[index]), picture.bucket)
            crop = crop.flip(-1) if mirrored else crop
            mean, std = self._encode_image(crop.permute(1, 2, 0)[None])
            what = f"Picture '{picture.name}'" + (" (mirrored)" if mirrored else "")
            check_posterior(mean, std, crop, self._space, what)
            return {"mean": own(mean[0])} if std is None else {"mean": own(mean[0]), "std": own(std[0])}

        key = digest("image 2", self._vae_key, picture.identity, str(picture.bucket), way)
        return self._get(key, make, posterior)

    def prompt(self, caption: str) -> Encoding:
        def make() -> Tensors:
            prompt_embeds, pooled = self._encode_prompt(caption)
            check_prompt(caption, prompt_embeds, pooled, self._space)
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


def _latent_bytes(bucket: Bucket, space: LatentSpace) -> int:
    return 4 * space.channels * (bucket[0] // space.factor) * (bucket[1] // space.factor)


def _kin(pictures: Sequence[Picture]) -> list[list[str]]:
    """The identities of pictures that are nearly the same, in groups of two or more."""
    once = list({picture.identity: picture for picture in pictures}.values())
    groups = alike([picture.look for picture in once], [picture.width / picture.height for picture in once])
    return [[once[index].identity for index in group] for group in groups]


def _held_out(identities: Sequence[str], kin: Sequence[Sequence[str]], share: float, seed: int) -> tuple[int, ...]:
    """Ranks contents by their own hash with the seed: a picture's rank does not depend on the others.

    Those in a group of ``kin`` go together, in the place of the first of them, and are passed over where they are more
    than are wanted. Where nothing else is left, kin are parted.
    """
    ranks = {identity: digest(str(seed), identity) for identity in identities}
    if share == 0 or len(ranks) < 2:
        return ()
    wanted = min(max(1, round(share * len(ranks))), len(ranks) - 1)
    related = {identity for group in kin for identity in group}
    groups = [*kin, *([identity] for identity in ranks if identity not in related)]
    chosen: set[str] = set()
    for group in sorted(groups, key=lambda group: min(ranks[identity] for identity in group)):
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if not chosen:
        smallest = min(groups, key=lambda group: (len(group), min(ranks[identity] for identity in group)))
        chosen.update(smallest if len(groups) > 1 else sorted(ranks, key=ranks.__getitem__)[:wanted])
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
