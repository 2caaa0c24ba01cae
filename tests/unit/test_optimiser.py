"""The optimiser's update, the running average and the schedules against formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import Parameter

from fluxduel.training.optimiser import NonFiniteError, Optimiser, RunningAverage
from fluxduel.training.schedules import annealed


def make(parameters, **changes):
    settings = dict(learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=1.0, total_steps=10)
    return Optimiser(parameters, **(settings | changes))


def test_the_norm_is_over_all_parameters_and_clipped():
    a, b = Parameter(torch.zeros(2)), Parameter(torch.zeros(3))
    reference = torch.optim.SGD([a, b], lr=1.0)
    assert reference is not None
    optimiser = make([a, b])
    a.grad, b.grad = torch.full((2,), 3.0), torch.full((3,), 4.0)
    assert optimiser.step() == pytest.approx(math.sqrt(2 * 9 + 3 * 16))
    assert a.grad is None and b.grad is None


def test_a_bad_gradient_updates_nothing():
    weight = Parameter(torch.ones(2))
    optimiser = make([weight])
    weight.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(NonFiniteError, match="inf"):
        optimiser.step()
    assert torch.equal(weight.detach(), torch.ones(2))
    assert weight.grad is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.05, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.0, 0.05, 0.1, 0.075, 0.05, 0.025]),
        ("cosine", [0.0, 0.05] + [0.05 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, expected):
    weight = Parameter(torch.ones(1))
    optimiser = make([weight], schedule=schedule, warmup_steps=2, total_steps=6)
    rates = []
    for _ in range(6):
        rates.append(optimiser.learning_rate)
        weight.grad = torch.ones(1)
        optimiser.step()
    assert rates == pytest.approx(expected, abs=1e-9)


def test_running_average_is_the_recursion():
    weight = Parameter(torch.zeros(1, dtype=torch.float64))
    average = RunningAverage([weight], decay=0.5)
    expected = 0.0
    for n in range(1, 30):
        weight.data.fill_(float(n))
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    average.swap()
    assert weight.item() == pytest.approx(expected, rel=1e-12)
    average.swap()
    assert weight.item() == 29.0


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("constant", (1.0, 1.0, 1.0)), ("linear", (1.0, 0.6, 0.2)), ("cosine", (1.0, 0.6, 0.2))],
)
def test_annealing_passes_through_its_ends_and_middle(schedule, values):
    got = [annealed(schedule, 1.0, 0.2, progress) for progress in (0.0, 0.5, 1.0)]
    assert got == pytest.approx(values)


def test_cosine_is_flat_at_both_ends():
    assert annealed("cosine", 0.0, 1.0, 0.01) < 0.001 < annealed("linear", 0.0, 1.0, 0.01)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'step'"):
        annealed("step", 0, 1, 0.5)
