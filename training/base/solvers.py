"""The solvers of the sampling equation that ComfyUI offers by these names, as its KSampler runs them on FLUX.

The equation is ``dx/dsigma = v(x, sigma)``, from ``sigma = 1``, noise, to 0. With ``x0 = x - sigma v`` it is that of
Karras et al. 2022 (arXiv:2206.00364, eq. 1 and 3), ``v = (x - x0) / sigma``, so solvers made for that fit. One kind is
linear in the last velocities, the other in the last estimates of ``x0``. In the last step, to 0, each of the host's is
the plain Euler step, whose end is the estimate of ``x0``. All begin with an Euler step too: a whole run has at most
order 2, whatever the order of a step. ``ab2`` is not among the host's.

Weights are computed in float64, from the levels that the base is asked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
# Weights of the newest value, the one before, ... of the step that begins at ``levels[place]``.
Weights = Callable[[Sequence[float], int], list[float]]

# As many velocities as any solver looks back to.
MOST_HISTORY = 4


def solve(solver: str, velocity: Velocity, latents: Tensor, sigmas: Tensor) -> Tensor:
    """``latents`` (n, C, h, w) at level ``sigmas[0]`` brought down to level ``sigmas[-1]``.

    ``velocity``: of latents and a level, a scalar tensor; it is asked ``evaluations(solver, steps)`` times.
    ``sigmas``: (steps + 1,), falling, above 0 but for the last, on the latents' device.

    Raises ``ValueError`` for a solver that is not among ``SOLVERS``.
    """
    if solver not in SOLVERS:
        raise ValueError(f"There is no sampler {solver!r}. Choose one of {', '.join(SOLVERS)}.")
    levels = sigmas.double().tolist()
    of_velocities, of_estimates = VELOCITY_WEIGHTS.get(solver), ESTIMATE_WEIGHTS.get(solver)
    history: list[Tensor] = []
    for place, (level, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        sigma, step = sigmas[place], sigmas[place + 1] - sigmas[place]
        slope = velocity(latents, sigma)
        seen = slope if of_estimates is None else latents - sigma * slope
        history = [seen, *history[: MOST_HISTORY - 1]]
        if solver == "euler" or (following == 0 and solver != "ab2"):
            latents = latents + step * slope
        elif solver == "heun":
            ahead = velocity(latents + step * slope, sigmas[place + 1])
            latents = latents + step * (slope + ahead) / 2
        elif of_velocities is not None:
            latents = latents + _weighted(of_velocities(levels, place), history)
        elif of_estimates is not None:
            latents = following / level * latents + _weighted(of_estimates(levels, place), history)
    return latents


def evaluations(solver: str, steps: int) -> int:
    """How often the base is evaluated in ``steps`` steps."""
    # Heun's last step ends at level 0, where there is nothing to ask.
    return 2 * steps - 1 if solver == "heun" else steps


def _weighted(weights: Sequence[float], history: Sequence[Tensor]) -> Tensor:
    total = weights[0] * history[0]
    for weight, value in zip(weights[1:], history[1:], strict=False):
        total = total + weight * value
    return total


# Linear in velocities.


def _euler(levels: Sequence[float], place: int) -> list[float]:
    return [levels[place + 1] - levels[place]]


def _ab2(levels: Sequence[float], place: int) -> list[float]:
    """Adams and Bashforth's second order for steps of any length (Hairer, Norsett, Wanner, Solving ODEs I, III.5)."""
    if place == 0:
        return _euler(levels, place)
    step, before = levels[place + 1] - levels[place], levels[place] - levels[place - 1]
    return [step * (1 + step / (2 * before)), -step * step / (2 * before)]


def _gradient_estimation(levels: Sequence[float], place: int) -> list[float]:
    """Permenter and Yuan 2023 (arXiv:2306.04848), gradient estimation with gamma = 2: ``h (2 v - v_before)``."""
    (step,) = _euler(levels, place)
    return [step] if place == 0 else [2 * step, -step]


# Adams and Bashforth, for steps of one length: Hairer et al., III.1.
_EVEN_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _ipndm(levels: Sequence[float], place: int) -> list[float]:
    """Zhang and Chen 2022 (arXiv:2204.13902), iPNDM: fourth order for even steps, taken on any."""
    (step,) = _euler(levels, place)
    return [step * weight for weight in _EVEN_STEPS[min(place, MOST_HISTORY - 1)]]


def _ipndm_v(levels: Sequence[float], place: int) -> list[float]:
    """Adams and Bashforth's fourth order for steps of any length, in divided differences, with the host's three slips.

    ``h (v + g1 d1 + g2 d2 + g3 d3)``: ``d`` are Newton's differences, ``g`` their integrals over the step (Hairer et
    al., III.5). The host's ``g2`` is ``(1 - h^2 / (3 h1 (h1 + h2))) / 2`` where the integral is
    ``(h^2 / 3 + h h1 / 2) / (h1 (h1 + h2))``; its ``g3`` has a sign turned; the oldest weight of ``d3`` has
    ``h1 / h2`` for ``h2 / h3``. Even steps hide the first and the last, and leave order 3; on uneven ones the fourth
    weight makes it order 1. Its users sample with these, so they are what is computed here.
    """
    if place == 0:
        return _euler(levels, place)
    h, *past = (levels[i + 1] - levels[i] for i in range(place, max(-1, place - MOST_HISTORY), -1))
    weights = [1.0, 0.0, 0.0, 0.0]
    nodes = [0.0]
    for length in past:
        nodes.append(nodes[-1] - length)
    integrals = [h / (2 * past[0])]
    if len(past) > 1:
        integrals.append((1 - h * h / (3 * past[0] * (past[0] + past[1]))) / 2)
    if len(past) > 2:
        one, two, three = past[0], past[0] + past[1], past[0] + past[1] + past[2]
        cubic = h**3 / 4 + h * h * (one + two) / 3 + h * one * two / 2
        # The sign: by the integral nothing would be added.
        cubic += h * h * (h + 2 * one) / 6
        integrals.append(cubic / (one * two * three))
    # A divided difference over nodes[:order + 1] times the product of the distances from the newest one.
    for order, integral in enumerate(integrals, 1):
        scale = math.prod(nodes[0] - node for node in nodes[1 : order + 1])
        for i in range(order + 1):
            others = (nodes[i] - node for j, node in enumerate(nodes[: order + 1]) if j != i)
            slip = past[0] * past[2] / past[1] ** 2 if i == 3 else 1.0
            weights[i] += slip * integral * scale / math.prod(others)
    return [h * weight for weight in weights[: len(past) + 1]]


# DEIS measures time as the variance-preserving diffusion of these levels and this first time does.
_DEIS_LEVELS, _DEIS_FIRST, _DEIS_ORDER, _DEIS_POINTS = (0.002, 80.0), 1e-3, 3, 10_000


def _deis(levels: Sequence[float], place: int) -> list[float]:
    """Zhang and Chen 2022 (arXiv:2204.13902), tAB3: velocities are interpolated in time ``t``.

    The weights are the integrals of ``dsigma/dt`` times Lagrange's polynomials in ``t``, where
    ``log(1 + sigma^2) = slope t^2 / 2 + start t``. As in the host they are means over 10,000 even points, both ends
    among them.
    """
    order = min(place + 1, _DEIS_ORDER)
    if order == 1:
        return _euler(levels, place)
    low, high = (math.log1p(level * level) for level in _DEIS_LEVELS)
    slope = 2 * (low / _DEIS_FIRST - high) / (_DEIS_FIRST - 1)
    start = high - slope / 2

    def time(level: float) -> float:
        return (math.sqrt(start * start + 2 * slope * math.log1p(level * level)) - start) / slope

    first, last = time(levels[place]), time(levels[place + 1])
    times = torch.linspace(first, last, _DEIS_POINTS, dtype=torch.float64)
    growth = torch.exp(slope * times.square() / 2 + start * times)
    speed = (slope * times + start) * growth / (2 * (growth - 1).sqrt())
    nodes = [time(levels[place - i]) for i in range(order)]
    weights = []
    for i, node in enumerate(nodes):
        polynomial = speed
        for other in (*nodes[:i], *nodes[i + 1 :]):
            polynomial = polynomial * (times - other) / (node - other)
        weights.append(float(polynomial.mean()) * (last - first))
    return weights


# Linear in estimates of x0, in the time -log(sigma), beside the old latents' share.


def _log_steps(levels: Sequence[float], place: int) -> tuple[float, float]:
    """The lengths of this step and of the one before."""
    return math.log(levels[place] / levels[place + 1]), math.log(levels[place - 1] / levels[place])


def _dpmpp_2m(levels: Sequence[float], place: int) -> list[float]:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv:2211.01095, algorithm 2)."""
    gain = 1 - levels[place + 1] / levels[place]
    if place == 0:
        return [gain]
    step, before = _log_steps(levels, place)
    return [gain * (1 + step / (2 * before)), -gain * step / (2 * before)]


def _res_multistep(levels: Sequence[float], place: int) -> list[float]:
    """RES, Zhang et al. 2023 (arXiv:2308.02157), second order: exponential Adams-Bashforth."""
    if place == 0:
        return [1 - levels[1] / levels[0]]
    step, before = _log_steps(levels, place)
    phi_1 = -math.expm1(-step) / step
    phi_2 = (1 - phi_1) / step
    return [step * (phi_1 + phi_2 * step / before), -step * phi_2 * step / before]


VELOCITY_WEIGHTS: Mapping[str, Weights] = {
    "ab2": _ab2,
    "deis": _deis,
    "ipndm": _ipndm,
    "ipndm_v": _ipndm_v,
    "gradient_estimation": _gradient_estimation,
}
ESTIMATE_WEIGHTS: Mapping[str, Weights] = {"dpmpp_2m": _dpmpp_2m, "res_multistep": _res_multistep}
SOLVERS = ("euler", "heun", *VELOCITY_WEIGHTS, *ESTIMATE_WEIGHTS)
