"""The solvers on a flow whose solution is known, and by what their definitions say of their weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.base.solvers import (
    ESTIMATE_WEIGHTS,
    SOLVERS,
    VELOCITY_WEIGHTS,
    evaluations,
    solve,
)
from fluxduel.training.config import SAMPLERS

# Data are normal with this mean and deviation: the flow keeps z where x = (1 - sigma) MEAN + spread(sigma) z.
MEAN, DEVIATION = 0.7, 0.4
Z = torch.tensor([-1.3, 0.2, 2.1], dtype=torch.float64).reshape(1, 3, 1, 1)


def spread(sigma: float) -> float:
    return math.sqrt(((1 - sigma) * DEVIATION) ** 2 + sigma**2)


def exact(sigma: float) -> Tensor:
    return (1 - sigma) * MEAN + spread(sigma) * Z


def velocity(x: Tensor, sigma: Tensor) -> Tensor:
    level = float(sigma)
    z = (x - (1 - level) * MEAN) / spread(level)
    return -MEAN + z * (level - (1 - level) * DEVIATION**2) / spread(level)


def even(high: float, low: float, steps: int) -> Tensor:
    return torch.linspace(high, low, steps + 1, dtype=torch.float64)


def error(solver: str, sigmas: Tensor) -> float:
    got = solve(solver, velocity, exact(float(sigmas[0])), sigmas)
    return float((got - exact(float(sigmas[-1]))).abs().max())


def order(errors: list[float]) -> float:
    """By how many powers of 2 the last halving of the step has divided the error."""
    return math.log2(errors[-2] / errors[-1])


def test_the_flow_is_solved_by_its_solution() -> None:
    for level in (0.9, 0.4, 0.1):
        slope = (exact(level + 1e-6) - exact(level - 1e-6)) / 2e-6
        torch.testing.assert_close(velocity(exact(level), torch.tensor(level)), slope, rtol=1e-6, atol=1e-7)


# A whole run begins with an Euler step, whose error is of order 2.
RUN = {"euler": 1, "gradient_estimation": 1} | dict.fromkeys(
    ("heun", "deis", "dpmpp_2m", "res_multistep", "ipndm", "ipndm_v", "ab2"), 2
)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_the_step_divides_the_error_of_a_run_by_two_to_its_order(solver: str) -> None:
    errors = [error(solver, even(0.95, 0.25, steps)) for steps in (20, 40, 80, 160)]
    # The first step's error is small beside the others' here, so runs of higher order may do better than 2.
    assert RUN[solver] - 0.15 < order(errors) < (RUN[solver] + 0.15 if RUN[solver] == 1 else 4.2), errors


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("tokens", [64, 4096])
def test_runs_of_fluxs_schedule_end_at_the_data(solver: str, tokens: int) -> None:
    errors = [error(solver, flow.sampling_sigmas(steps, flow.resolution_mu(tokens))) for steps in (8, 64, 512)]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.01, errors


# Of one step, with exact values before it, on even steps and on others: there two lose what even steps hide.
STEP = {
    "euler": (1, 1), "gradient_estimation": (1, 1), "ab2": (2, 2), "dpmpp_2m": (2, 2), "res_multistep": (2, 2),
    "deis": (3, 3), "ipndm": (4, 1), "ipndm_v": (3, 0),
}  # fmt: skip


@pytest.mark.parametrize(("solver", "orders"), STEP.items(), ids=STEP)
@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 0.7, 0.9, 0.6)], ids=["even", "uneven"])
def test_one_step_with_exact_values_before_it_has_the_order_of_its_formula(
    solver: str, orders: tuple[int, int], lengths: tuple[float, ...]
) -> None:
    errors = []
    for step in (0.02, 0.01, 0.005):
        levels = [0.7 + step * sum(lengths[place:3]) for place in range(4)]
        levels.append(0.7 - step * lengths[3])
        kept, weights = 1.0, [levels[4] - levels[3]]
        if solver in VELOCITY_WEIGHTS:
            weights = VELOCITY_WEIGHTS[solver](levels, 3)
        if solver in ESTIMATE_WEIGHTS:
            kept, weights = levels[4] / levels[3], ESTIMATE_WEIGHTS[solver](levels, 3)
        values = []
        for level in reversed(levels[:4]):
            slope = velocity(exact(level), torch.tensor(level, dtype=torch.float64))
            values.append(exact(level) - level * slope if solver in ESTIMATE_WEIGHTS else slope)
        got = kept * exact(levels[3]) + sum(w * v for w, v in zip(weights, values, strict=False))
        errors.append(float((got - exact(levels[4])).abs().max()))
    wanted = orders[0] if len(set(lengths)) == 1 else orders[1]
    assert order(errors) == pytest.approx(wanted + 1, abs=0.35), errors


@pytest.mark.parametrize("solver", VELOCITY_WEIGHTS)
def test_a_constant_velocity_is_integrated_exactly_by_all_but_one_on_uneven_steps(solver: str) -> None:
    levels = flow.sampling_sigmas(8, flow.resolution_mu(1024)).tolist()
    for place in range(7):
        share = sum(VELOCITY_WEIGHTS[solver](levels, place)) / (levels[place + 1] - levels[place])
        if solver == "ipndm_v" and place >= 3:
            assert abs(share - 1) > 1e-3
        else:
            assert share == pytest.approx(1, abs=2e-4)


def test_the_weights_of_deis_are_integrals_of_lagranges_polynomials() -> None:
    """By Gauss and Legendre in sigma; the host's even points are off by about 1e-4 of the step."""
    levels = flow.sampling_sigmas(6, flow.resolution_mu(1024)).tolist()
    low, high = math.log1p(0.002**2), math.log1p(80.0**2)
    slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    start = high - slope / 2

    def time(sigma: np.ndarray) -> np.ndarray:
        return (np.sqrt(start**2 + 2 * slope * np.log1p(sigma**2)) - start) / slope

    points, shares = np.polynomial.legendre.leggauss(60)
    for place in range(1, 5):
        a, b = levels[place], levels[place + 1]
        sigma = (a + b) / 2 + (b - a) / 2 * points
        nodes = time(np.array(levels[max(0, place - 2) : place + 1][::-1]))
        wanted = []
        for i, node in enumerate(nodes):
            others = np.delete(nodes, i)
            polynomial = np.prod([(time(sigma) - other) / (node - other) for other in others], axis=0)
            wanted.append(float((polynomial * shares).sum() * (b - a) / 2))
        assert VELOCITY_WEIGHTS["deis"](levels, place) == pytest.approx(wanted, abs=3e-4 * abs(b - a))


@pytest.mark.parametrize(("solver", "is_exact"), [("res_multistep", True), ("dpmpp_2m", False)])
def test_res_integrates_estimates_that_are_linear_in_log_sigma_exactly(solver: str, is_exact: bool) -> None:
    """``dx/dt = x0(t) - x`` with ``t = -log(sigma)`` and ``x0 = a + b t`` from the step's start on."""
    levels = [0.9, 0.7, 0.4, 0.1]
    for place in (1, 2):
        step, before = math.log(levels[place] / levels[place + 1]), math.log(levels[place - 1] / levels[place])
        a, b = 0.3, -1.7
        wanted = (1 - math.exp(-step)) * a + b * (step - 1 + math.exp(-step))
        newest, older = ESTIMATE_WEIGHTS[solver](levels, place)
        assert (newest * a + older * (a - b * before) == pytest.approx(wanted, rel=1e-9)) == is_exact


def test_ab2_is_the_formula_of_the_benchmark() -> None:
    sigmas = flow.sampling_sigmas(5, flow.resolution_mu(256))
    x, before = exact(1.0), None
    for place, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        h, v = following - sigma, velocity(x, sigma)
        w = 0.0 if before is None else h / (2 * (sigma - sigmas[place - 1]))
        x = x + h * ((1 + w) * v - w * (v if before is None else before))
        before = v
    torch.testing.assert_close(solve("ab2", velocity, exact(1.0), sigmas), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted_as_they_are_made(solver: str, steps: int) -> None:
    asked: list[float] = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return velocity(x, sigma)

    solve(solver, counted, exact(1.0), flow.sampling_sigmas(steps, flow.resolution_mu(256)))
    assert len(asked) == evaluations(solver, steps) == (2 * steps - 1 if solver == "heun" else steps)
    assert min(asked) > 0


def test_euler_is_bit_for_bit_the_plain_loop() -> None:
    sigmas = flow.sampling_sigmas(7, flow.resolution_mu(1024)).float()
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = start
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (following - sigma) * velocity(x, sigma)
    assert torch.equal(solve("euler", velocity, start, sigmas), x)


def test_the_user_is_offered_the_solvers_of_the_host() -> None:
    assert set(SAMPLERS) == set(SOLVERS) - {"ab2"} and SAMPLERS[0] == "euler"
    with pytest.raises(ValueError, match="no sampler 'unipc'. Choose one of euler, heun"):
        solve("unipc", velocity, exact(1.0), flow.sampling_sigmas(2, flow.resolution_mu(256)))
