"""Whether a dataset was encoded for a base."""

from __future__ import annotations

import torch

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from .data_error import DataError
from .encoder_warnings import whose_prompt
from .real_latents import RealLatents


def check_fits(base: BaseReference, data: RealLatents) -> None:
    """Raises ``DataError`` where the data was encoded for another model than ``base``."""
    if not data.training:
        raise DataError("There is no image to train on: all are held out. Add images, or lower held_out_share.")
    config = read_transformer_config(base.path)
    family = family_of(config)
    for prompt in (*data.prompts, data.empty_prompt):
        for name, got, expected in (
            ("prompt_embeds", prompt.width, config["joint_attention_dim"]),
            ("pooled_prompt_embeds", prompt.pooled_width, family.pooled_dim(config)),
        ):
            if got != expected:
                whose = whose_prompt(prompt.width, prompt.pooled_width)
                raise DataError(
                    f"{name} of caption {prompt.caption!r} are {got} wide, but {base.name} takes {expected}. "
                    f"{f'They are those of {whose}. ' if whose else ''}"
                    "Encode the captions with the text encoders of that base "
                    f"({family.name}: {family.text}; the built-in base: LoadTinyFluxEncoders)."
                )
    channels = config["in_channels"] // family.space.patch**2
    for sample in data.samples:
        family.space.check(torch.empty(1, *sample.shape, device="meta"), sample.name, channels)


def check_prompt_fits(base: BaseReference, width: int, pooled_width: int, where: str) -> None:
    """Raises ``ValueError``, beginning with ``where``, where prompts of these widths are not what ``base`` takes."""
    config = read_transformer_config(base.path)
    wanted = (config["joint_attention_dim"], family_of(config).pooled_dim(config))
    if (width, pooled_width) != wanted:
        whose = whose_prompt(width, pooled_width)
        raise ValueError(
            f"{where}: the prompt is {width} wide and its pooled vector {pooled_width}, but {base.name} takes "
            f"{wanted[0]} and {wanted[1]}.{f' It is that of {whose}.' if whose else ''}"
        )
