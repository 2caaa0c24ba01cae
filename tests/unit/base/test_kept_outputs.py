"""Outputs of layers in one call, handed out in the next one instead of being computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fluxduel.training.base.kept_outputs import KeptOutputs


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(3, 3).requires_grad_(False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(x)


def test_what_was_noted_is_handed_out_as_often_as_it_is_asked_for() -> None:
    pair, x = Pair(), torch.rand(2, 3)
    kept = KeptOutputs([pair.first, pair.second])
    with kept.noting():
        wanted = pair(x)
    assert kept.complete
    for _ in range(2):
        with kept.handing_out():
            assert torch.equal(pair(torch.full((2, 3), torch.nan)), wanted)
    assert torch.equal(pair(2 * x), pair.first(2 * x) - pair.second(2 * x))


def test_nothing_stays_on_the_layers_whatever_happens() -> None:
    pair = Pair()
    before = [dict(vars(layer)) for layer in (pair.first, pair.second)]
    kept = KeptOutputs([pair.first, pair.second])
    with kept.noting():
        pair(torch.rand(2, 3))
    for within in (kept.noting(), kept.handing_out()):
        with pytest.raises(ZeroDivisionError), within:
            raise ZeroDivisionError
    assert [dict(vars(layer)) for layer in (pair.first, pair.second)] == before
    assert not any(layer._forward_hooks for layer in (pair.first, pair.second))


@pytest.mark.parametrize("case", ["an input has a gradient", "one is called twice", "one is not called"])
def test_what_cannot_be_handed_out_is_not_complete(case: str) -> None:
    pair, x = Pair(), torch.rand(2, 3)
    kept = KeptOutputs([pair.first, pair.second])
    with kept.noting():
        if case == "an input has a gradient":
            pair(x.requires_grad_())
        elif case == "one is called twice":
            pair(pair.first(x))
        else:
            pair.first(x)
    assert not kept.complete
