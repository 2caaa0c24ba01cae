"""What a dataset holds and what to look at in it, in words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from .buckets import MAX_ASPECT, window
from .data_error import listed, quoted
from .encoder_warnings import encoder_warnings
from .pictures import Picture
from .real_latents import RealLatents
from .remarks import Remarks

CROP_WARNING = 1 / 3


def describe_dataset(
    data: RealLatents,
    pictures: Sequence[Picture],
    captions: Sequence[str],
    kin: Sequence[Sequence[str]],
    remarks: Remarks,
    share: float,
    cached: str | None,
) -> str:
    """The report. ``kin``: identities of pictures that are nearly the same; ``share``: of pictures to hold out."""
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
        example = quoted(data.few_step_prompts[0].caption)
        lines.append(f"Few-step phrase: each caption is also encoded with it at its front, such as {example}.")
    if data.practice_prompts:
        example = quoted(data.practice_prompts[0].caption)
        lines.append(f"Practice prompts: {len(data.practice_prompts)}, such as {example}.")
    if data.outside_prompts:
        example = quoted(data.outside_prompts[0].caption)
        lines.append(f"Outside prompts: {len(data.outside_prompts)}, such as {example}.")
    if data.preview_prompts:
        example = quoted(data.preview_prompts[0].caption)
        lines.append(f"Preview prompts: {len(data.preview_prompts)}, such as {example}.")
    if data.negative_prompt is not None:
        lines.append(f"Negative prompt: {quoted(data.negative_prompt.caption)}.")
    lines.append(f"Training: {len(data.training)}. Held out: {len(data.held_out)}.")
    masked = sum(sample.masked for sample in data.samples)
    if masked:
        without = list(dict.fromkeys(sample.name for sample in data.samples if not sample.masked))
        rest = f", the others are learned whole ({listed(without)})" if without else ""
        lines.append(f"Masks: {masked} of {len(pictures)} pictures have one{rest}.")
    lines += remarks.lines()
    if cached is not None:
        lines.append(f"Encodings found in the cache: {cached}.")
    warnings = [*remarks.warnings(), *_warnings(data, pictures, captions, kin, share)]
    return "\n".join(lines + [f"Warning: {warning}" for warning in warnings])


def _warnings(
    data: RealLatents,
    pictures: Sequence[Picture],
    captions: Sequence[str],
    kin: Sequence[Sequence[str]],
    share: float,
) -> list[str]:
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
            f"pictures that lose more than a third to the crop: {len(cropped)} ({listed(sorted(cropped))}). A smaller "
            f"bucket_step has more shapes, up to {MAX_ASPECT} : 1; or crop them to what matters."
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
    if kin:
        pairs = [" and ".join(f"'{min(names[identity])}'" for identity in group[:3]) for group in kin[:5]]
        held_out = {pictures[index].identity for index in data.held_out}
        parted = any(0 < sum(identity in held_out for identity in group) < len(group) for group in kin)
        warnings.append(
            f"pictures that are nearly the same: {sum(map(len, kin))} in {len(kin)} groups ({'; '.join(pairs)}"
            f"{'; …' if len(kin) > 5 else ''}). They weigh more in training: remove the copies. "
            + (
                "There are no others, so that some are held out though the LoRA is trained on their like: "
                "held_out_loss tells little."
                if parted
                else "None is held out of those whose like is trained on."
            )
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
    masked = sum(sample.masked for sample in data.samples)
    if masked and data.practice_prompts:
        warnings.append(
            f"practice_prompts do not go with masks, and {masked} pictures have one: leave one of the two away, or "
            "stage 2 will refuse them until practice_share is 0."
        )
    if share > 0 and not data.held_out:
        warnings.append("nothing is held out, because there are not two different pictures.")
    return warnings + encoder_warnings(data)
