"""Does a prompt belong to a base? Asked before anything large is loaded."""

from __future__ import annotations

from torch import Tensor

from ..training.base.base_model import BaseReference, read_transformer_config
from ..training.config import TINY_BASE


def text_encoder_of(base: BaseReference) -> str:
    """Which text encoder a base needs, in words."""
    if base.path == TINY_BASE:
        return "the CLIP of Load Tiny FLUX Encoders"
    return "DualCLIPLoader of type flux, with CLIP-L and T5-XXL"


def check_prompt(base: BaseReference, prompt_embeds: Tensor, pooled: Tensor, where: str) -> None:
    """Raises ``ValueError`` where (length, width) and (width,) are not what ``base`` takes, and says what it needs."""
    config = read_transformer_config(base.path)
    got = (prompt_embeds.shape[-1], pooled.shape[-1])
    wanted = (config["joint_attention_dim"], config["pooled_projection_dim"])
    if got != wanted:
        raise ValueError(
            f"{where}: the prompt is {got[0]} wide and its pooled vector {got[1]}, but {base.name} takes {wanted[0]} "
            f"and {wanted[1]}. Encode it with {text_encoder_of(base)}."
        )
