"""The losses of the arms without a discriminator, against plain derivations of them."""

from __future__ import annotations

import math

import pytest
import torch

from fluxduel.benchmarks.quality.rivals import discrepancy


def gaussian_rows(count: int, shift: float, seed: int) -> torch.Tensor:
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[:, 0] += shift
    return rows


def test_the_discrepancy_is_that_of_three_gaussian_kernels():
    """Term by term, as Gretton et al. 2012, eq. 5, has it; the unit is the reals' mean squared distance."""
    a, b = gaussian_rows(7, 0.5, 0), gaussian_rows(5, 0.0, 1)
    unit = sum(float((x - y).square().sum()) for x in b for y in b) / 25

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return sum(math.exp(-float((x - y).square().sum()) / unit / width) for width in (0.1, 0.3, 1.0)) / 3

    def mean(first: torch.Tensor, second: torch.Tensor) -> float:
        return sum(kernel(x, y) for x in first for y in second) / (len(first) * len(second))

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert discrepancy(a, b).item() == pytest.approx(expected, rel=1e-9)
    assert discrepancy(b, b).item() == pytest.approx(0, abs=1e-12)


def test_its_gradient_leads_to_the_reals():
    """By finite differences; and a step against it lessens the discrepancy."""
    a, b = gaussian_rows(12, 1.0, 0).requires_grad_(), gaussian_rows(12, 0.0, 1)
    (gradient,) = torch.autograd.grad(discrepancy(a, b), a)
    with torch.no_grad():
        step = torch.zeros_like(a)
        step[3, 0] = 1e-5
        numeric = (discrepancy(a + step, b) - discrepancy(a - step, b)) / 2e-5
        assert gradient[3, 0].item() == pytest.approx(numeric.item(), rel=1e-5)
        assert discrepancy(a - gradient, b) < discrepancy(a, b)
    # On the whole towards where the reals are.
    assert gradient[:, 0].mean() > 0
