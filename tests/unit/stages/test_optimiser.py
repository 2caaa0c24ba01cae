"""The optimiser's update, the running average and the schedules against formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import Parameter

from fluxduel.training.stages.optimiser import NonFiniteError, Optimiser, RunningAverage
from fluxduel.training.stages.schedules import annealed


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


def test_updates_are_fused_on_cuda_alone():
    """Counted on tensors that have a device and a shape, and no values; the CPU keeps its own loop, bit for bit."""
    with FakeTensorMode():
        weight = Parameter(torch.zeros(3, device="cuda"))
        optimiser = make([weight])
        weight.grad = torch.ones(3, device="cuda")
        optimiser.apply()
        group, moments = optimiser._adamw.param_groups[0], optimiser._adamw.state[weight]
    assert group["fused"] and moments["step"].device.type == "cuda"
    optimiser = make([Parameter(torch.zeros(3))])
    assert not optimiser._adamw.param_groups[0]["fused"]


def test_a_bad_gradient_updates_nothing():
    weight = Parameter(torch.ones(2))
    optimiser = make([weight])
    weight.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(NonFiniteError, match="inf"):
        optimiser.step()
    assert torch.equal(weight.detach(), torch.ones(2))
    assert weight.grad is None


def test_clip_then_apply_is_a_step():
    """And a gradient that is looked at, then dropped, leaves no trace."""
    ends = []
    for parted in (False, True):
        weight = Parameter(torch.zeros(3))
        optimiser = make([weight], schedule="linear", betas=(0.5, 0.9))
        for number in range(3):
            if parted:
                weight.grad = torch.full((3,), 1e6)
                assert optimiser.clip() == pytest.approx(1e6 * math.sqrt(3))
                optimiser.clear()
                assert weight.grad is None
            weight.grad = torch.tensor([1.0, -2.0, 5.0]) * (number + 1)
            if parted:
                assert optimiser.clip() == pytest.approx(math.sqrt(30) * (number + 1))
                assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
                optimiser.apply()
            else:
                optimiser.step()
            assert weight.grad is None
        ends.append((weight.detach().clone(), optimiser.learning_rate))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1] < 0.1


def test_without_a_largest_norm_gradients_stay():
    weight = Parameter(torch.zeros(2))
    optimiser = make([weight], max_grad_norm=0.0)
    weight.grad = torch.tensor([300.0, 400.0])
    assert optimiser.clip() == pytest.approx(500.0)
    assert weight.grad.tolist() == [300.0, 400.0]


def test_what_is_forgotten_does_not_move_the_next_update():
    """After the moments are dropped an update is a first one: its length is the learning rate, in its own direction."""
    weight = Parameter(torch.zeros(1))
    optimiser = make([weight], betas=(0.9, 0.9), max_grad_norm=0.0)
    for _ in range(5):
        weight.grad = torch.full((1,), 1000.0)
        optimiser.step()
    optimiser.forget()
    before = weight.item()
    weight.grad = torch.full((1,), -1e-3)
    optimiser.step()
    assert weight.item() - before == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.1, 0.1, 0.075, 0.05, 0.025]),
        ("cosine", [0.05, 0.1] + [0.05 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
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


def test_a_restarted_average_is_that_of_the_current_weights():
    weight = Parameter(torch.zeros(1))
    average = RunningAverage([weight], decay=0.5)
    for value in (1.0, 5.0, 9.0):
        weight.data.fill_(value)
        average.update()
    average.restart()
    average.swap()
    assert weight.item() == 9.0
    average.swap()
    weight.data.fill_(11.0)
    average.update()
    average.swap()
    assert 9.0 < weight.item() <= 11.0


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
