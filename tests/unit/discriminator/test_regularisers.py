"""The penalties: against whole Jacobians, against finite differences, and against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fluxduel.discriminator.networks import build
from fluxduel.discriminator.regularisers import LeCam, approximate_slope, centring, exact_slope, lecam, random_signs

ARCHITECTURES = ("cnn", "mlp", "patch_cnn")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _updated(architecture: str, channels: int = 4) -> torch.nn.Module:
    """A float64 network with every weight moved, FiLM included."""
    network = build(architecture, width=6, depth=1, spectral_norm=False, seed=0, channels=channels).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * _normal(*parameter.shape, seed=index))
    return network


def _closed(network: torch.nn.Module, count: int) -> Callable[[Tensor], list[Tensor]]:
    sigma = torch.linspace(0.2, 0.8, count).double()
    return lambda x: network(x, sigma)


def _all_signs(maps: list[Tensor]) -> Iterator[list[Tensor]]:
    """Every assignment of signs to one sample's logits; the mean over them is the expectation itself."""
    sizes = [m[0].numel() for m in maps]
    for number in range(2 ** sum(sizes)):
        bits = torch.tensor([1.0 if number >> bit & 1 else -1.0 for bit in range(sum(sizes))], dtype=torch.float64)
        yield [
            part.reshape(1, *m.shape[1:]).expand(m.shape) for part, m in zip(bits.split(sizes), maps, strict=True)
        ]


def _by_brute_force(judge_of: Callable[[Tensor], list[Tensor]], x: Tensor) -> float:
    """The slope from the whole Jacobian, one logit at a time."""
    maps = len(judge_of(x))
    means = []
    for index in range(maps):
        jacobian = torch.autograd.functional.jacobian(lambda latents, index=index: judge_of(latents)[index], x)
        # (B, 1, h', w', B, C, h, w): a logit's norm is over all latents, of which only its own sample's count.
        means.append(jacobian.flatten(4).square().sum(4).mean().item())
    return sum(means) / maps


# --- exact slope


@pytest.mark.parametrize("size", [(4, 4), (6, 4)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_slope_is_unbiased(architecture: str, size: tuple[int, int]) -> None:
    network = _updated(architecture)
    x = _normal(2, 4, *size, seed=1)
    judge_of = _closed(network, 2)
    # Towers of one map each keep the number of assignments small: 2^4, or 2^6 for 3x2 places.
    judges = [judge_of] if architecture != "patch_cnn" else [lambda x, i=i: [judge_of(x)[i]] for i in range(3)]
    for judge in judges:
        estimates = [exact_slope(judge, x, signs).item() for signs in _all_signs(judge(x))]
        assert sum(estimates) / len(estimates) == pytest.approx(_by_brute_force(judge, x), rel=1e-10)
        assert len(estimates) == 2 or max(estimates) > 1.01 * min(estimates)


def test_exact_slope_is_unbiased_over_several_maps() -> None:
    """Signs of one map must not correlate with another's: here two maps share every latent."""
    weights = [_normal(2, 3, 4, 4, seed=1), 3 * _normal(1, 3, 4, 4, seed=2)]

    def judge_of(x: Tensor) -> list[Tensor]:
        return [torch.einsum("bchw,pchw->bp", (x**2 / 2), w)[:, None, None] for w in weights]

    x = _normal(2, 3, 4, 4, seed=3)
    estimates = [exact_slope(judge_of, x, signs).item() for signs in _all_signs(judge_of(x))]
    assert sum(estimates) / len(estimates) == pytest.approx(_by_brute_force(judge_of, x), rel=1e-10)
    # By hand: the gradient at a place of weight w is w x; two places of the first map, one of the second.
    places = [(w[None] * x[:, None]).square().flatten(2).sum(2).mean().item() for w in weights]
    assert _by_brute_force(judge_of, x) == pytest.approx(sum(places) / 2, rel=1e-10)


def test_exact_slope_does_not_depend_on_signs_where_logits_share_no_latents() -> None:
    def judge_of(x: Tensor) -> list[Tensor]:
        return [(x**2).sum(1, keepdim=True) / 2]

    x = _normal(3, 4, 5, 6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        found = exact_slope(judge_of, x, lambda maps: random_signs(maps, generator))
        assert found.item() == pytest.approx(x.square().sum(1).mean().item(), rel=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_slopes_own_gradient_by_finite_differences(architecture: str) -> None:
    network = _updated(architecture)
    x, judge_of = _normal(2, 4, 4, 6, seed=1), _closed(network, 2)
    signs = random_signs(judge_of(x), torch.Generator().manual_seed(0))
    weights = {name: p for name, p in network.named_parameters() if name.endswith("weight")}
    gradients = torch.autograd.grad(exact_slope(judge_of, x, signs), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = _normal(*weight.shape, seed=3)
        direction *= 1e-6 / direction.norm()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * direction)
                # Without gradients, as when it is only logged, the slope still needs its own.
                sides.append(exact_slope(judge_of, x, signs).item())
                weight.sub_(sign * direction)
        slope = (sides[0] - sides[1]) / 2
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-13), name
    assert any(g.norm() > 1e-6 for g in gradients)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_slopes_of_single_samples_average_to_the_batchs(architecture: str) -> None:
    network = _updated(architecture)
    x, beside = _normal(3, 4, 6, 4, seed=1), _normal(3, 4, 6, 4, seed=2)
    sigma = torch.linspace(0.2, 0.8, 3).double()
    signs = random_signs(network(x, sigma), torch.Generator().manual_seed(0))
    exact, approximate = [], []
    for part in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):

        def judge_of(latents: Tensor, part: slice = part) -> list[Tensor]:
            return network(latents, sigma[part])

        exact.append(exact_slope(judge_of, x[part], [s[part] for s in signs]).item())
        approximate.append(approximate_slope(judge_of(x[part]), judge_of(beside[part]), 0.1).item())
    for whole, *singles in (exact, approximate):
        assert whole == pytest.approx(sum(singles) / 3, rel=1e-10)
        assert max(singles) > 1.01 * min(singles)


def test_exact_slope_leaves_the_latents_alone() -> None:
    network = _updated("patch_cnn")
    x = _normal(2, 4, 4, 4).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    exact_slope(_closed(network, 2), x, lambda maps: random_signs(maps, generator)).backward()
    assert x.grad is None
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_slopes_in_half_precision_are_fp32() -> None:
    network = build("cnn", width=8, depth=1, spectral_norm=False, seed=0)
    x, sigma = _normal(2, 16, 4, 4).bfloat16(), torch.tensor([0.2, 0.8])
    signs = random_signs(network(x, sigma), torch.Generator().manual_seed(0))
    found = exact_slope(lambda latents: network(latents, sigma), x, signs)
    expected = exact_slope(lambda latents: network(latents, sigma), x.float(), signs)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    # 1 + 2^-7 and 1 differ by one unit in the last place: their difference must not be rounded again.
    at, beside = torch.ones(1, 1, 2, 2).bfloat16(), torch.full((1, 1, 2, 2), 1 + 2**-7).bfloat16()
    found = approximate_slope([at], [beside], 0.3)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx((2**-7 / 0.3) ** 2, rel=1e-6)


def test_random_signs_are_fair_independent_and_repeatable() -> None:
    maps = [torch.zeros(64, 1, 8, 8), torch.zeros(64, 1, 4, 4).bfloat16()]
    signs = random_signs(maps, torch.Generator().manual_seed(0))
    for one, m in zip(signs, maps, strict=True):
        assert one.shape == m.shape and one.dtype == torch.float32
        assert set(one.unique().tolist()) == {-1.0, 1.0}
        # Deviations of a mean of n signs are 1 / sqrt(n).
        assert abs(one.mean().item()) < 4 / math.sqrt(one.numel())
        assert (one[0] != one[1]).any()
    again = random_signs(maps, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(signs, again, strict=True))
    other = random_signs(maps, torch.Generator().manual_seed(1))
    assert not torch.equal(signs[0], other[0])


# --- approximate slope


def test_approximate_slope_by_hand() -> None:
    logits = [torch.zeros(2, 1, 1, 1), torch.full((2, 1, 2, 2), 1.0)]
    beside = [torch.tensor([0.5, -1.0]).reshape(2, 1, 1, 1), torch.full((2, 1, 2, 2), 1.25)]
    # Differences over 0.5: 1 and -2 in the first map, 0.5 in the second.
    assert approximate_slope(logits, beside, 0.5).item() == pytest.approx(((1 + 4) / 2 + 0.25) / 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_approximate_slope_tends_to_the_exact_one(architecture: str) -> None:
    network = _updated(architecture)
    x, count = _normal(1, 4, 4, 4, seed=1), 4000
    exact = _by_brute_force(_closed(network, 1), x)
    noise = _normal(count, 4, 4, 4, seed=2)
    sigma = torch.full((count,), 0.2).double()
    with torch.no_grad():
        at, beside = network(x.expand_as(noise), sigma), network(x + 1e-5 * noise, sigma)
    # Each draw's (n grad)^2 is a chi-square a place, of relative deviation sqrt(2): 0.022 over all draws.
    assert approximate_slope(at, beside, 1e-5).item() == pytest.approx(exact, rel=0.08)


def test_approximate_slope_of_a_linear_discriminator_is_the_same_for_every_step() -> None:
    weight, x, noise = _normal(4, 4, 4), _normal(3, 4, 4, 4, seed=1), _normal(3, 4, 4, 4, seed=2)

    def judge_of(latents: Tensor) -> list[Tensor]:
        return [(latents * weight).flatten(1).sum(1)[:, None, None, None]]

    expected = (noise * weight).flatten(1).sum(1).square().mean().item()
    for step in (1e-3, 0.05, 1.0):
        found = approximate_slope(judge_of(x), judge_of(x + step * noise), step)
        assert found.item() == pytest.approx(expected, rel=1e-8)


def test_approximate_slopes_gradient_goes_through_both_verdicts() -> None:
    """A branch without gradients would halve the penalty's pull, and turn it into a pull on the level."""
    network = _updated("patch_cnn")
    x, judge_of = _normal(2, 4, 4, 6, seed=1), _closed(network, 2)
    near = x + 0.05 * _normal(2, 4, 4, 6, seed=2)
    weights = {name: p for name, p in network.named_parameters() if name.endswith("weight")}
    gradients = torch.autograd.grad(approximate_slope(judge_of(x), judge_of(near), 0.05), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = _normal(*weight.shape, seed=3)
        direction *= 1e-6 / direction.norm()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * direction)
                sides.append(approximate_slope(judge_of(x), judge_of(near), 0.05).item())
                weight.sub_(sign * direction)
        slope = (sides[0] - sides[1]) / 2
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-13), name


# --- centring


def test_centring_by_hand() -> None:
    real = [torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1), torch.full((2, 1, 2, 2), 1.0)]
    fake = [torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1), torch.full((2, 1, 2, 2), 2.0)]
    # (0^2 + 2^2) / 2 in the first map, 3^2 in the second.
    assert centring(real, fake).item() == pytest.approx((2 + 9) / 2)


def test_centring_pulls_the_level_and_leaves_the_difference() -> None:
    real, fake = _normal(3, 1, 2, 2, seed=1).requires_grad_(True), _normal(3, 1, 2, 2, seed=2).requires_grad_(True)
    by_real, by_fake = torch.autograd.grad(centring([real], [fake]), (real, fake))
    torch.testing.assert_close(by_real, 2 * (real + fake).detach() / 12)
    assert torch.equal(by_real, by_fake)
    apart = centring([real + 5], [fake - 5]).item()
    assert apart == pytest.approx(centring([real], [fake]).item(), rel=1e-12)


# --- LeCam


def test_lecam_by_hand() -> None:
    real = [torch.tensor([2.0, -1.5]).reshape(2, 1, 1, 1), torch.full((2, 1, 2, 2), 0.0)]
    fake = [torch.tensor([-2.0, 1.0]).reshape(2, 1, 1, 1), torch.full((2, 1, 2, 2), 0.25)]
    # Reals against -1: (3^2 + 0) / 2 and 1^2. Fakes against 0.5: (2.5^2 + 0) / 2 and 0.25^2.
    expected = (4.5 + 1) / 2 + (3.125 + 0.0625) / 2
    assert lecam(real, fake, mean_real=0.5, mean_fake=-1.0).item() == pytest.approx(expected)


def test_lecam_pulls_verdicts_towards_the_other_sides_mean() -> None:
    real, fake = torch.full((1, 1, 1, 1), 2.0, requires_grad=True), torch.full((1, 1, 1, 1), -3.0, requires_grad=True)
    by_real, by_fake = torch.autograd.grad(lecam([real], [fake], 1.0, -1.0), (real, fake))
    assert by_real.item() == pytest.approx(6.0) and by_fake.item() == pytest.approx(-8.0)
    # Verdicts beyond the other side's mean are wrong enough already.
    assert lecam([real - 4], [fake + 5], 1.0, -1.0).item() == 0.0


def test_running_means_are_debiased() -> None:
    means = LeCam(decay=0.9)
    assert means.means == (0.0, 0.0)
    reals, fakes = [4.0, 2.0, -1.0], [-3.0, 0.0, 5.0]
    for count in range(1, 4):
        means.update(reals[count - 1], fakes[count - 1])
        weights = [0.9 ** (count - 1 - index) for index in range(count)]
        for found, values in zip(means.means, (reals, fakes), strict=True):
            expected = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
            assert found == pytest.approx(expected, rel=1e-12)


def test_running_means_forget_at_the_given_rate() -> None:
    means = LeCam()
    for _ in range(2000):
        means.update(1.0, -1.0)
    for _ in range(69):
        means.update(0.0, 0.0)
    # 0.99^69 is 0.4998.
    assert means.means == pytest.approx((0.5, -0.5), abs=1e-3)


def test_the_penalty_uses_the_running_means() -> None:
    real, fake = [_normal(2, 1, 2, 2, seed=1).requires_grad_(True)], [_normal(2, 1, 2, 2, seed=2)]
    means = LeCam()
    assert means.penalty(real, fake).item() == 0.0
    means.update(0.7, -0.4)
    assert means.penalty(real, fake).item() == pytest.approx(lecam(real, fake, 0.7, -0.4).item(), rel=1e-12)
    assert torch.autograd.grad(means.penalty(real, fake), real)[0].any()


def test_a_broken_update_does_not_spoil_the_running_means() -> None:
    means = LeCam()
    means.update(1.0, -1.0)
    for broken in ((math.nan, 0.0), (0.0, math.inf)):
        means.update(*broken)
    assert means.means == pytest.approx((1.0, -1.0))


def test_running_means_survive_a_checkpoint() -> None:
    means, resumed = LeCam(), LeCam()
    for index in range(5):
        means.update(0.3 * index, -0.1 * index)
    resumed.load_state_dict(json.loads(json.dumps(means.state_dict())))
    assert resumed.means == means.means
    means.update(2.0, 1.0)
    resumed.update(2.0, 1.0)
    assert resumed.means == means.means
    with pytest.raises(KeyError, match="updates"):
        resumed.load_state_dict({"real": 0.0, "fake": 0.0})


# --- errors


def test_wrong_arguments_are_named() -> None:
    maps = [torch.zeros(2, 1, 2, 2)]
    for call in (
        lambda a, b: approximate_slope(a, b, 0.1),
        centring,
        lambda a, b: lecam(a, b, 0.0, 0.0),
    ):
        with pytest.raises(ValueError, match="got 1 and 2"):
            call(maps, maps * 2)
        with pytest.raises(ValueError, match="got 0 and 0"):
            call([], [])
    for call in (lambda a, b: approximate_slope(a, b, 0.1), centring):
        with pytest.raises(ValueError, match=r"\(2, 1, 2, 2\) and \(1, 1, 2, 2\)"):
            call(maps, [maps[0][:1]])
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be above 0"):
            approximate_slope(maps, maps, step)
    with pytest.raises(ValueError, match=r"\[\(2, 1, 2, 2\)\], got \[\(1, 1, 2, 2\)\]"):
        exact_slope(lambda x: [x], maps[0], [torch.ones(1, 1, 2, 2)])
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match="decay must be"):
            LeCam(decay)
