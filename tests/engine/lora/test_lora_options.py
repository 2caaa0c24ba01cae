"""Every option of a new LoRA reaches what it configures: its tensors, or what it does on a base."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.conftest import CONTEXT, LENGTH, POOLED
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA

SMALL = LoRAConfig(rank=2, alpha=4.0)
# Option -> (what else has to be set for it to matter, one value, another value).
CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "rank": ({}, 2, 3),
    "alpha": ({}, 4.0, 2.0),
    "targets": ({}, "attention+mlp", "all"),
    "target_regex": ({"targets": "regex"}, r"transformer_blocks\.0\.attn\.to_q", r"transformer_blocks\.1\.attn\.to_q"),
    "seed": ({}, 0, 1),
}


def velocity(lora: FluxLoRA, strength: float = 0.1) -> Tensor:
    """What a base says with ``lora`` on it, whose second halves, zero in a new LoRA, are all ``strength``."""
    tensors = {
        name: torch.full_like(tensor, strength) if name.endswith("lora_B.weight") else tensor
        for name, tensor in lora.tensors.items()
    }
    base = load_base(lora.base, "cpu")
    adapter.attach(base, dataclasses.replace(lora, tensors=tensors))
    generator = torch.Generator().manual_seed(0)
    x_t, embeds, pooled = (
        torch.randn(shape, generator=generator) for shape in ((1, 16, 4, 4), (1, LENGTH, CONTEXT), (1, POOLED))
    )
    with torch.no_grad():
        return base.velocity(x_t, torch.tensor([0.5]), embeds, pooled, 1.0)


def test_every_option_has_a_case() -> None:
    assert set(CASES) == {field.name for field in dataclasses.fields(LoRAConfig)}


@pytest.mark.parametrize("option", CASES)
def test_every_option_changes_what_the_lora_does(reference: BaseReference, option: str) -> None:
    extra, *values = CASES[option]
    one, other = (
        adapter.create(reference, dataclasses.replace(SMALL, **extra, **{option: value})) for value in values
    )
    assert not torch.allclose(velocity(one), velocity(other), rtol=1e-3)


def test_alpha_and_the_second_half_scale_alike(reference: BaseReference) -> None:
    """Half of alpha is half of the adapter's output, which twice as large a half makes up for."""
    one, other = (adapter.create(reference, dataclasses.replace(SMALL, alpha=alpha)) for alpha in (4.0, 2.0))
    torch.testing.assert_close(velocity(one, 0.1), velocity(other, 0.2), rtol=1e-4, atol=1e-5)
