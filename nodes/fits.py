"""Does a prompt belong to a base? Asked before anything large is loaded."""

from __future__ import annotations

from torch import Tensor

from ..training.base.base_model import BaseReference
from ..training.config import TINY_BASE
from ..training.data.fits import check_prompt_fits
from ..training.lora.value import base_family


def text_encoder_of(base: BaseReference) -> str:
    """Which text encoder a base needs, in words."""
    if base.path == TINY_BASE:
        return "the CLIP of Load Tiny FLUX Encoders"
    family = base_family(base)
    return f"{family.loader}: {family.text}"


def check_prompt(base: BaseReference, prompt_embeds: Tensor, pooled: Tensor, where: str) -> None:
    """Raises ``ValueError`` where (length, width) and (width,) are not what ``base`` takes, and says what it needs."""
    try:
        check_prompt_fits(base, prompt_embeds.shape[-1], pooled.shape[-1], where)
    except ValueError as error:
        raise ValueError(f"{error} Encode it with {text_encoder_of(base)}.") from error
