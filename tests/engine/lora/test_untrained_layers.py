"""A LoRA in which layers have not learnt anything yet comes back whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter


@pytest.mark.parametrize("trained", [0, 1])
def test_layers_whose_second_half_is_zero_are_kept(reference: BaseReference, tmp_path: Path, trained: int) -> None:
    """Of a new LoRA all are, and of one that was trained on others these."""
    lora = adapter.create(reference, LoRAConfig(rank=2, targets="attention"))
    names = [name for name in lora.tensors if name.endswith("lora_B.weight")]
    tensors = {
        name: torch.ones_like(tensor) if name in names[:trained] else tensor for name, tensor in lora.tensors.items()
    }
    file = adapter.save(dataclasses.replace(lora, tensors=tensors), tmp_path / "new.safetensors")
    found = adapter.load_file(file, reference)
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    assert (found.config.rank, found.config.alpha) == (2, lora.config.alpha)
