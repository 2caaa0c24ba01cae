"""Weights in int8 rows: how far they are from what they stand for, and that they are ComfyUI's."""

from __future__ import annotations

import pytest
import torch

from fluxduel.training.base.int8 import GROUP, Int8Weight, dequantised, quantised, rotated


@pytest.mark.parametrize("group", [0, 4, 16, GROUP])
def test_no_value_is_farther_than_half_a_step(group: int) -> None:
    weight = torch.randn(24, 2 * GROUP, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 24)[:, None]
    found = quantised(weight, group)
    assert found.values.dtype == torch.int8 and found.scales.shape == (24,) and found.group == group
    # In the rotated basis, where it was rounded; the largest of each row is met.
    wanted = rotated(weight, group) if group else weight
    error = (found.values * found.scales[:, None] - wanted).abs()
    assert (error <= found.scales[:, None] * 0.5001).all()
    assert (found.values.abs().amax(1) == 127).all()
    back = dequantised(found, torch.float32)
    assert (back - weight).norm(dim=1).le(0.02 * weight.norm(dim=1)).all()


def test_rows_of_zeros_stay_zero() -> None:
    found = quantised(torch.zeros(3, 16), 16)
    assert not dequantised(found, torch.bfloat16).any()


def test_a_rotation_is_its_own_inverse_and_leaves_products() -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(5, 3 * GROUP, generator=generator).double() for _ in range(2))
    assert torch.allclose(rotated(rotated(x, GROUP), GROUP), x, atol=1e-12)
    assert torch.allclose(rotated(x, GROUP) @ rotated(weight, GROUP).T, x @ weight.T, atol=1e-10)
    # Regular: all rows of the matrix have the same sum, so a constant is spread over nothing.
    assert torch.allclose(rotated(torch.ones(1, 16).double(), 16), torch.ones(1, 16).double())


def test_an_outlier_costs_the_others_less_where_inputs_are_rotated() -> None:
    weight = torch.randn(8, GROUP, generator=torch.Generator().manual_seed(3))
    weight[:, 7] *= 50
    errors = [(dequantised(quantised(weight, group), torch.float32) - weight).norm().item() for group in (0, GROUP)]
    assert errors[1] < 0.4 * errors[0]


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="100 inputs are no multiple of the group of 16"):
        rotated(torch.ones(1, 100), 16)
    with pytest.raises(ValueError, match="Groups of 8 cannot be rotated: choose a power of 4"):
        rotated(torch.ones(1, 16), 8)


@pytest.mark.parametrize("group", [0, GROUP])
def test_values_and_scales_are_comfyuis(group: int) -> None:
    kitchen = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    weight = torch.randn(32, 2 * GROUP, generator=torch.Generator().manual_seed(4))
    ours = quantised(weight, group)
    rounded = kitchen.quantize_int8_convrot_weight if group else lambda each, _: kitchen.quantize_int8_rowwise(each)
    values, scales = rounded(weight, group)
    assert torch.equal(ours.scales, scales.flatten())
    # Where a value lies on the middle between two, the order of a sum may decide.
    assert (ours.values != values).float().mean() < 1e-3
    theirs = Int8Weight(values, scales.flatten(), group)
    wanted = kitchen.dequantize_int8_convrot_weight(values, scales, group) if group else values.float() * scales
    assert torch.allclose(dequantised(theirs, torch.float32), wanted, atol=1e-6)
