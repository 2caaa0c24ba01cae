"""The LoRA on the host's own MODEL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import comfy.lora
from torch import Tensor

from ...training.base.base_model import BaseReference
from ...training.config import TINY_BASE


def apply_lora(model: Any, tensors: Mapping[str, Tensor], strength: float, base: BaseReference) -> Any:
    """A clone of the host's MODEL with the LoRA on it. Raises ``ValueError`` unless every layer finds its place.

    ``tensors`` are those of a file of the format diffusers. The host itself only logs a layer that it has no place for,
    and a shape that does not fit it notices in the middle of sampling.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    modules = sorted({re.sub(r"\.(lora_[AB]\.weight|alpha)$", "", key) for key in tensors})
    weights = model.model.state_dict()
    strangers = [name for name in modules if name not in keys or not _fits(tensors, name, weights, keys[name])]
    if strangers:
        reason = (
            "This LoRA belongs to the tiny base, which the host cannot load as a MODEL: use Sample FLUX LoRA."
            if base.path == TINY_BASE
            else f"Is MODEL the one that the LoRA was trained on ({base.name})?"
        )
        raise ValueError(
            f"Apply FLUX LoRA: {len(strangers)} of the LoRA's {len(modules)} layers do not fit this MODEL, the first "
            f"are {', '.join(strangers[:3])}. {reason}"
        )
    patched = model.clone()
    patched.add_patches(comfy.lora.load_lora(dict(tensors), keys), strength)
    return patched


def _fits(tensors: Mapping[str, Tensor], name: str, weights: Mapping[str, Tensor], key: Any) -> bool:
    """``key``: a weight's name, or that and (dimension, start, length) where the layer is a part of the weight."""
    whole = key if isinstance(key, str) else key[0]
    # The host's list has names for weights that a model leaves out, such as those of SD 3's last block.
    if whole not in weights:
        return False
    shape = list(weights[whole].shape)
    if not isinstance(key, str) and key[1] is not None:
        dimension, _, length = key[1]
        shape[dimension] = length
    down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
    return shape == [up.shape[0], down.shape[1]]
