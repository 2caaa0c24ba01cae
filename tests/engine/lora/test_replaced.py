"""Another LoRA's weights for the length of a pass."""

from __future__ import annotations

import pytest
import torch

from fluxduel.training.base.base_model import load_base
from fluxduel.training.lora import adapter as lora


def test_the_base_computes_with_them_inside_and_has_its_own_again_after(start) -> None:
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    other = {key: tensor + 1.0 for key, tensor in start.tensors.items()}
    beside = lora.beside(base, other)
    for failing in (False, True):
        with pytest.raises(KeyError) if failing else torch.no_grad():
            with lora.replaced(base, beside):
                assert all(torch.equal(tensor, other[key]) for key, tensor in lora.snapshot(base).items())
                if failing:
                    raise KeyError
        assert all(torch.equal(tensor, start.tensors[key]) for key, tensor in lora.snapshot(base).items())
