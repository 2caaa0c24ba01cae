"""How FLUX.2's prompts are padded."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..base.families.flux2 import FLUX2

# Of Mistral 3's three layers.
DEV_WIDTH = 15360


def padded_left(prompt_embeds: Tensor) -> Tensor:
    """(L, D) -> (L', D) of at least 512 tokens: zeros are put before the prompt, as ComfyUI's FLUX.2 does."""
    return F.pad(prompt_embeds, (0, 0, max(0, FLUX2.text_tokens - prompt_embeds.shape[0]), 0))


def padded_as_dev(prompt_embeds: Tensor) -> Tensor:
    """A prompt of the host's, as the model is given it: dev's ``padded_left``, klein's as it is.

    The host pads klein's with tokens while it encodes, and dev's in the model alone.
    """
    return padded_left(prompt_embeds) if prompt_embeds.shape[-1] == DEV_WIDTH else prompt_embeds
