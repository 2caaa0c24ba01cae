"""A LoRA on the sibling of its base: another model of the same shapes, such as the distilled one of few steps."""

from __future__ import annotations

from dataclasses import replace

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from .value import FluxLoRA, LoRAError

# What a LoRA and its prompts have to fit. A guidance embedding is outside the layers that are adapted.
_SHAPES = (
    "in_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads",
    "joint_attention_dim", "pooled_projection_dim", "mlp_ratio",
)  # fmt: skip


def on_sibling(lora: FluxLoRA, sibling: BaseReference, where: str) -> FluxLoRA:
    """``lora`` with ``sibling`` for its base.

    Raises ``LoRAError``, beginning with ``where``, for a base of another family or other shapes, and
    ``BaseModelError`` where either is gone.
    """
    fault = sibling_fault(lora.base, sibling)
    if fault:
        raise LoRAError(f"{where}: {fault}")
    return replace(lora, base=sibling)


def sibling_fault(base: BaseReference, sibling: BaseReference) -> str:
    """Why a LoRA that is trained on ``base`` does not fit ``sibling``; empty where it does.

    Raises ``BaseModelError`` where either is gone.
    """
    own, other = (read_transformer_config(each.path) for each in (base, sibling))
    families = [family_of(config).name for config in (own, other)]
    differing = [f"it is {families[1]} and not {families[0]}"] if families[0] != families[1] else [
        f"its {name} is {other.get(name)} and not {own.get(name)}"
        for name in _SHAPES
        if own.get(name) != other.get(name)
    ]
    if not differing:
        return ""
    return (
        f"{sibling.name} has other shapes than {base.name}, which the LoRA was trained on: {', '.join(differing)}. "
        "Choose its sibling, such as the distilled model of the same size."
    )
