"""What a CONDITIONING holds: one prompt, and what else the host's nodes may have put beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..training.base.families.flux2 import FLUX2
from ..training.base.families.latent_space import LatentSpace
from ..training.data.data_error import listed
from ..training.data.encoder_warnings import foreign_prompt, whose_prompt
from ..training.data.flux2_text import padded_as_dev
from .values import outside_inference_mode

# What changes the model itself or what it sees: a prompt without it is another prompt.
NEEDED = {
    "control": "a ControlNet",
    "concat_latent_image": "a picture for the model to see",
    "concat_mask": "a mask for the model to see",
    "reference_latents": "reference pictures",
    "gligen": "boxes for parts of the prompt",
    "hooks": "hooks, such as a LoRA for this prompt alone",
}
IGNORED = {
    "guidance": "guidance {}",
    "area": "an area",
    "mask": "a mask",
    "strength": "strength {}",
    "start_percent": "a start at {} of the steps",
    "end_percent": "an end at {} of the steps",
    "attention_mask": "an attention mask",
    "clip_vision_output": "a picture's CLIP features",
    "unclip_conditioning": "a picture's CLIP features",
}
# Values by which nothing is meant, and what only belongs to another entry.
NEUTRAL = {
    "strength": 1.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "clip_start_percent": 0.0,
    "clip_end_percent": 1.0,
}
PARTS = {
    "pooled_output", "mask_strength", "set_area_to_bounds", "control_apply_to_uncond", "reference_latents_method",
    "concat_mask_index", "attention_mask_img_shape",
}  # fmt: skip


def prompt_of(conditioning: Sequence[Any], where: str, space: LatentSpace) -> tuple[Tensor, Tensor]:
    """A CONDITIONING of one prompt -> (L, D) and (P,), fp32 on the CPU.

    P is 0 where bases with latents of ``space`` take no pooled prompt.

    Raises ``ValueError``, beginning with ``where``, for several prompts, for one that such bases cannot use, and for
    one that is nothing without what it was joined with (``NEEDED``).
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"{where}: holds {len(conditioning)} prompts. Connect one CLIP Text Encode, without Combine or schedules."
        )
    embeds, extras = conditioning[0]
    needed = [words for key, words in NEEDED.items() if extras.get(key) is not None]
    if needed:
        raise ValueError(
            f"{where}: holds {' and '.join(needed)} beside the prompt, which this node cannot use. Connect the prompt "
            "as CLIP Text Encode gives it. Apply FLUX LoRA and the host's own sampler take all that the host can do."
        )
    pooled = extras.get("pooled_output")
    if not space.pooled:
        return _without_pooled(embeds, pooled, where)
    if pooled is None:
        whose = whose_prompt(embeds.shape[-1], 0) or "T5 alone, or the text encoder of another model"
        raise ValueError(
            f"{where}: gives no pooled output, which {space.name} needs: {whose}. Use "
            "DualCLIPLoader of type flux (CLIP-L and T5-XXL), or the CLIP of Load Tiny FLUX Encoders for the tiny base."
        )
    if embeds.ndim != 3 or embeds.shape[0] != 1 or pooled.reshape(-1).shape[0] != pooled.shape[-1]:
        raise ValueError(
            f"{where}: expected one prompt of shape (1, length, width), got {tuple(embeds.shape)} and a pooled output "
            f"{tuple(pooled.shape)}. Connect the text encoder of FLUX, not of a video or 3D model."
        )
    with outside_inference_mode():
        return embeds[0].float().cpu().clone(), pooled.reshape(-1).float().cpu().clone()


def _without_pooled(embeds: Tensor, pooled: Tensor | None, where: str) -> tuple[Tensor, Tensor]:
    width = embeds.shape[-1]
    if pooled is not None:
        fault = "gives a pooled output, which FLUX.2 does not take: the text encoders of FLUX.1 or of another model"
    elif foreign_prompt(width, 0):
        fault = f"is {width} wide: {foreign_prompt(width, 0)}"
    elif embeds.ndim != 3 or embeds.shape[0] != 1:
        fault = f"expected one prompt of shape (1, length, width), got {tuple(embeds.shape)}"
    else:
        with outside_inference_mode():
            prompt = padded_as_dev(embeds[0].float().cpu().clone())
            return prompt, prompt.new_zeros(0)
    raise ValueError(f"{where}: {fault}. Use {FLUX2.loader}: {FLUX2.text}.")


def ignored_in(conditionings: Mapping[str, Sequence[Any]]) -> list[str]:
    """Sentences that name what ``prompt_of`` leaves out of each of ``conditionings``, which have names."""
    found: dict[str, list[str]] = {}
    for name, conditioning in conditionings.items():
        words = _beside_the_prompt(conditioning[0][1])
        if words:
            found.setdefault(words, []).append(name)
    return [
        f"beside the prompt there is {words} in {listed(names)}. That is ignored: the prompt counts whole, everywhere "
        "and at all steps. Guidance is an input of the nodes that train and sample."
        for words, names in found.items()
    ]


def _beside_the_prompt(extras: Mapping[str, Any]) -> str:
    return ", ".join(
        IGNORED.get(key, repr(key)).format(f"{value:g}" if isinstance(value, int | float) else "")
        for key, value in extras.items()
        if value is not None and key not in PARTS and not _is_neutral(key, value, extras)
    )


def _is_neutral(key: str, value: Any, extras: Mapping[str, Any]) -> bool:
    # Without a size of picture the host's FLUX models do not look at a mask: FLUX.2's text encoders give one each time.
    if key == "attention_mask":
        return extras.get("attention_mask_img_shape") is None
    return key in NEUTRAL and value == NEUTRAL[key]
