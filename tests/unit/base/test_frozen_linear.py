"""The layer that keeps its weight in int8: what it computes, what it passes back, and when it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fluxduel.training.base import int8_kernels
from fluxduel.training.base.frozen_linear import FrozenLinear
from fluxduel.training.base.int8 import GROUP, Int8Weight, dequantised, quantised

GROUPS = (0, 16, GROUP)


@pytest.fixture(autouse=True)
def forget_the_choice():
    int8_kernels.best_kernel.cache_clear()
    yield
    int8_kernels.best_kernel.cache_clear()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(group: int, out: int = 40, inputs: int = GROUP, bias: bool = True) -> tuple[FrozenLinear, Tensor]:
    """A layer, and what its weight stands for."""
    rounded = quantised(draw(out, inputs, seed=1) * torch.logspace(-1, 1, out)[:, None], group)
    found = FrozenLinear(rounded, draw(out, seed=2) if bias else None)
    return found, dequantised(rounded, torch.float64)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(2, 9), (33,), (3, 1), (1,)])
def test_the_product_is_that_of_rounded_activations(group: int, shape: tuple[int, ...]) -> None:
    frozen, weight = layer(group)
    x = draw(*shape, GROUP, seed=3)
    found = frozen(x)
    assert found.shape == (*shape, 40) and found.dtype == x.dtype
    exact = x.double() @ weight.T + frozen.bias
    rows = x.numel() // GROUP
    error = (found - exact).norm() / exact.norm()
    # Few rows are not rounded; of the others each value is off by a step of 1 / 127 of the largest at the most.
    assert error < 1e-5 if rows <= int8_kernels.FEW_ROWS else 1e-3 < error < 0.015


@pytest.mark.parametrize("group", GROUPS)
def test_integers_are_added_exactly(group: int) -> None:
    """Against sums in Python's integers, of a derivation of its own."""
    frozen, _ = layer(group, out=8, inputs=GROUP, bias=False)
    x = draw(20, GROUP, seed=4) * torch.logspace(-2, 2, 20)[:, None]
    rows = int8_kernels.rotated(x, group) if group else x
    found = frozen(x)
    for row in (0, 7, 19):
        largest = rows[row].abs().max().item()
        whole = [round(value * 127 / largest) for value in rows[row].tolist()]
        for place in (0, 5):
            total = sum(a * b for a, b in zip(whole, frozen.weight[place].tolist(), strict=True))
            wanted = total * largest / 127 * frozen.scales[place].item()
            # A value on the middle between two integers may go either way.
            assert found[row, place].item() == pytest.approx(wanted, rel=2e-3, abs=2e-3 * found[row].abs().max().item())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rows", [3, 40])
def test_the_gradient_is_that_of_the_weight_it_stands_for(group: int, rows: int) -> None:
    frozen, weight = layer(group)
    x, direction = draw(rows, GROUP, seed=5).requires_grad_(), draw(rows, 40, seed=6)
    frozen(x).backward(direction)
    assert torch.allclose(x.grad.double(), direction.double() @ weight, atol=1e-4)
    assert frozen.weight.grad is None and not frozen.weight.requires_grad


def test_the_gradient_has_a_gradient() -> None:
    """A penalty on the discriminator's slope goes through the base's gradient once more."""
    frozen, weight = layer(16)
    x, direction = draw(40, GROUP, seed=7).requires_grad_(), draw(40, 40, seed=8).requires_grad_()
    (slope,) = torch.autograd.grad(frozen(x), x, direction, create_graph=True)
    slope.square().sum().backward()
    wanted = 2 * (direction.detach().double() @ weight) @ weight.T
    assert torch.allclose(direction.grad.double(), wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("again", [False, True])
def test_a_weight_that_was_overwritten_is_noticed(again: bool) -> None:
    frozen, _ = layer(0)
    x = draw(40, GROUP).requires_grad_()
    found = checkpoint(frozen, x, use_reentrant=False) if again else frozen(x)
    with torch.no_grad():
        frozen.weight.copy_(frozen.weight.flip(0))
    if again:
        # Computed anew with what is there now: that is for whoever moves weights to see to.
        found.sum().backward()
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


def test_nothing_is_computed_for_an_input_that_asks_for_no_gradient() -> None:
    frozen, _ = layer(0)
    scale = torch.ones(40, requires_grad=True)
    (frozen(draw(40, GROUP)) * scale).sum().backward()
    assert scale.grad is not None and frozen.scales.grad is None


@pytest.mark.parametrize("group", GROUPS)
def test_compiled_it_is_the_same(group: int) -> None:
    frozen, _ = layer(group)
    results = []
    for run in (frozen, torch.compile(frozen, backend="aot_eager", fullgraph=True)):
        x = draw(40, GROUP, seed=9).requires_grad_()
        out = run(x)
        out.square().sum().backward()
        results.append((out.detach(), x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("group", GROUPS)
def test_comfy_kitchens_product_is_ours(group: int) -> None:
    pytest.importorskip("comfy_kitchen")
    frozen, _ = layer(group)
    weight, x = Int8Weight(frozen.weight.data, frozen.scales, group), draw(40, GROUP, seed=10).bfloat16()
    ours, theirs = (int8_kernels.product(x, weight, kernel).float() for kernel in ("torch", "comfy-kitchen"))
    # It rounds what it has divided in the input's type.
    assert (ours - theirs).norm() < 0.012 * ours.norm()


def test_a_kernel_that_fails_or_is_wrong_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert int8_kernels.best_kernel(torch.device("cpu"), 0) == "torch"

    def fails(*_: object) -> Tensor:
        raise RuntimeError("not on this card")

    for wrong, told in ((fails, ""), (lambda x, weight: functional.linear(x, weight.values.to(x.dtype)), "% off")):
        int8_kernels.best_kernel.cache_clear()
        caplog.clear()
        monkeypatch.setitem(int8_kernels.KERNELS, "torch", wrong)
        assert int8_kernels.best_kernel(torch.device("cpu"), 0) == "none"
        assert told in caplog.text
    frozen, weight = layer(0)
    x = draw(40, GROUP)
    assert torch.allclose(frozen(x).double(), x.double() @ weight.T + frozen.bias, rtol=1e-4, atol=1e-3)
    int8_kernels.best_kernel.cache_clear()
    monkeypatch.setitem(int8_kernels.KERNELS, "none", fails)
    with pytest.raises(RuntimeError, match="cannot be multiplied on cpu. Set precision to bf16"):
        int8_kernels.best_kernel(torch.device("cpu"), 0)


def test_sides_that_the_kernel_does_not_take_are_multiplied_without_it() -> None:
    frozen = FrozenLinear(quantised(draw(5, 12)), None)
    x = draw(40, 12)
    exact = x @ dequantised(Int8Weight(frozen.weight.data, frozen.scales), torch.float32).T
    assert torch.allclose(frozen(x), exact, atol=1e-4)


def test_it_is_a_linear_layer_to_others() -> None:
    frozen, _ = layer(16)
    assert isinstance(frozen, nn.Linear) and (frozen.in_features, frozen.out_features) == (GROUP, 40)
    assert "int8, rotated in 16, by torch" in repr(frozen)
    frozen.kernel = "of another device"
    assert frozen.to("cpu").kernel == "torch"
    moved = frozen.to("meta")
    assert moved.weight.dtype == torch.int8 and moved.scales.is_meta
