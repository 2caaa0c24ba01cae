"""The adversarial losses: against formulas derived here, against finite differences, and in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fluxduel.discriminator.losses import (
    LOSSES,
    accuracy,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    pair_accuracy,
)
from fluxduel.discriminator.networks import build

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


def _maps(seed: int) -> list[Tensor]:
    """Two maps of unlike sizes for three samples, with logits on both sides of the hinge."""
    maps = [2 * _normal(3, 1, 2, 4, seed=seed), 2 * _normal(3, 1, 1, 1, seed=seed + 100)]
    return [m.requires_grad_(True) for m in maps]


# --- values


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        ("bce", 2 * math.log(2), math.log(2)),
        ("lsgan", 2.0, 1.0),
        ("wgan-gp", 0.0, 0.0),
        ("hinge", 2.0, 0.0),
        ("relativistic", math.log(2), math.log(2)),
    ],
)
def test_values_at_logits_of_zero(loss: str, discriminator: float, generator: float) -> None:
    zeros = [torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 1, 1)]
    assert discriminator_loss(loss, zeros, zeros).item() == pytest.approx(discriminator)
    assert generator_loss(loss, zeros, zeros).item() == pytest.approx(generator)


def test_relativistic_sees_differences_alone() -> None:
    real, fake = _maps(1), _maps(2)
    for shift in (-30.0, 5.0):
        moved = [r + shift for r in real], [f + shift for f in fake]
        assert discriminator_loss("relativistic", *moved).item() == pytest.approx(
            discriminator_loss("relativistic", real, fake).item(), rel=1e-12
        )
    equal = discriminator_loss("relativistic", real, [r.detach() for r in real])
    assert equal.item() == pytest.approx(math.log(2), rel=1e-12)


def test_bce_is_torchs_binary_cross_entropy() -> None:
    real, fake = _maps(1), _maps(2)
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = sum(
        cross_entropy(r, torch.ones_like(r)) + cross_entropy(f, torch.zeros_like(f))
        for r, f in zip(real, fake, strict=True)
    )
    assert discriminator_loss("bce", real, fake).item() == pytest.approx(expected.item() / 2, rel=1e-12)
    expected = sum(cross_entropy(f, torch.ones_like(f)) for f in fake)
    assert generator_loss("bce", fake, real).item() == pytest.approx(expected.item() / 2, rel=1e-12)


def test_relativistic_is_cross_entropy_of_the_difference() -> None:
    real, fake = _maps(1), _maps(2)
    pairs = list(zip(real, fake, strict=True))
    ones = [torch.ones_like(r) for r in real]
    expected = sum(F.binary_cross_entropy_with_logits(r - f, o) for (r, f), o in zip(pairs, ones, strict=True))
    assert discriminator_loss("relativistic", real, fake).item() == pytest.approx(expected.item() / 2, rel=1e-12)
    expected = sum(F.binary_cross_entropy_with_logits(f - r, o) for (r, f), o in zip(pairs, ones, strict=True))
    assert generator_loss("relativistic", fake, real).item() == pytest.approx(expected.item() / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        # Logits real 3 and -1, fake 0.5 and -2: worked out by hand.
        ("lsgan", (2**2 + 2**2) / 2 + (1.5**2 + 1**2) / 2, (0.5**2 + 3**2) / 2),
        ("wgan-gp", -0.75 - 1.0, 0.75),
        ("hinge", (0 + 2) / 2 + (1.5 + 0) / 2, 0.75),
    ],
)
def test_values_worked_out_by_hand(loss: str, discriminator: float, generator: float) -> None:
    real = [torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1)]
    fake = [torch.tensor([0.5, -2.0]).reshape(2, 1, 1, 1)]
    assert discriminator_loss(loss, real, fake).item() == pytest.approx(discriminator)
    assert generator_loss(loss, fake, real).item() == pytest.approx(generator)


def test_every_map_counts_the_same() -> None:
    """A large map does not drown a small one."""
    zeros = [torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 8, 8)]
    logits = [torch.ones(1, 1, 1, 1), torch.full((1, 1, 8, 8), 4.0)]
    assert discriminator_loss("wgan-gp", logits, zeros).item() == pytest.approx(-2.5)


# --- gradients


_SLOPES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {
    # Derivatives by the real and by the fake logit of the discriminator's loss, and by the fake of the generator's.
    "bce": (
        lambda r, f: -1 / (1 + r.exp()),
        lambda r, f: 1 / (1 + (-f).exp()),
        lambda r, f: -1 / (1 + f.exp()),
    ),
    "lsgan": (lambda r, f: 2 * (r - 1), lambda r, f: 2 * (f + 1), lambda r, f: 2 * (f - 1)),
    "wgan-gp": (lambda r, f: -torch.ones_like(r), lambda r, f: torch.ones_like(f), lambda r, f: -torch.ones_like(f)),
    "hinge": (
        lambda r, f: torch.where(r < 1, -1.0, 0.0).double(),
        lambda r, f: torch.where(f > -1, 1.0, 0.0).double(),
        lambda r, f: -torch.ones_like(f),
    ),
    "relativistic": (
        lambda r, f: -1 / (1 + (r - f).exp()),
        lambda r, f: 1 / (1 + (r - f).exp()),
        lambda r, f: -1 / (1 + (f - r).exp()),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_the_logits(loss: str) -> None:
    real, fake = _maps(1), _maps(2)
    found = torch.autograd.grad(discriminator_loss(loss, real, fake), [*real, *fake])
    found_generator = torch.autograd.grad(generator_loss(loss, fake, real), fake)
    by_real, by_fake, by_fake_generator = _SLOPES[loss]
    for index, (r, f) in enumerate(zip(real, fake, strict=True)):
        share = 1 / (len(real) * r.numel())
        torch.testing.assert_close(found[index], share * by_real(r, f).detach(), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found[2 + index], share * by_fake(r, f).detach(), rtol=1e-10, atol=1e-14)
        expected = share * by_fake_generator(r, f).detach()
        torch.testing.assert_close(found_generator[index], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", ["bce", "relativistic"])
def test_a_lost_sample_still_pulls(loss: str) -> None:
    """Where the discriminator is sure, the generator's gradient stays 1 (log(sigmoid + eps) would lose it)."""
    fake = torch.full((1, 1, 1, 1), -200.0, requires_grad=True)
    value = generator_loss(loss, [fake], [torch.zeros(1, 1, 1, 1)])
    value.backward()
    assert value.item() == pytest.approx(200.0)
    assert fake.grad is not None and fake.grad.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_are_judged_in_fp32(loss: str) -> None:
    real, fake = torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), -1.5)
    halves = [real.bfloat16()], [fake.bfloat16()]
    for found, expected in (
        (discriminator_loss(loss, *halves), discriminator_loss(loss, [real], [fake])),
        (generator_loss(loss, halves[1], halves[0]), generator_loss(loss, [fake], [real])),
    ):
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)


# --- accumulation


def _updated(architecture: str, spectral_norm: bool = False) -> torch.nn.Module:
    """A float64 network with every weight moved, FiLM included."""
    network = build(architecture, width=8, depth=2, spectral_norm=spectral_norm, seed=0).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * _normal(*parameter.shape, seed=index))
    return network


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_four_single_samples_equal_one_batch_of_four(architecture: str, loss: str, spectral_norm: bool) -> None:
    network = _updated(architecture, spectral_norm)
    real, fake = _normal(4, 16, 6, 8, seed=1), _normal(4, 16, 6, 8, seed=2)
    sigma, mix = torch.linspace(0.1, 0.9, 4).double(), torch.linspace(0, 1, 4).double()

    def gradients(size: int) -> list[Tensor]:
        leaf = fake.clone().requires_grad_(True)
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, 4, size):
            part = slice(start, start + size)
            judged = network(real[part], sigma[part]), network(leaf[part].detach(), sigma[part])
            value = discriminator_loss(loss, *judged)
            if loss == "wgan-gp":
                value = value + 10 * gradient_penalty(network, real[part], leaf[part], sigma[part], mix[part])
            total = total + value * size / 4
        by_weights = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, 4, size):
            part = slice(start, start + size)
            judged = network(leaf[part], sigma[part]), network(real[part], sigma[part])
            total = total + generator_loss(loss, *judged) * size / 4
        by_fake = torch.autograd.grad(total, leaf)
        return [g for g in (*by_weights, *by_fake) if g is not None]

    whole, single, pairs = gradients(4), gradients(1), gradients(2)
    for one, other, third in zip(whole, single, pairs, strict=True):
        scale = one.norm()
        # A map's last bias that cancels between real and fake has no gradient to compare with.
        assert (one - other).norm() <= 1e-6 * scale + 1e-15
        assert (one - third).norm() <= 1e-6 * scale + 1e-15
    assert sum(bool(g.norm() > 1e-8) for g in whole) >= len(whole) - len(network(real, sigma))


# --- accuracy


def test_accuracy_with_a_fixed_zero() -> None:
    real = [torch.tensor([1.0, 2.0, -1.0, 0.0]).reshape(4, 1, 1, 1)]
    fake = [torch.tensor([-3.0, 1.0]).reshape(2, 1, 1, 1)]
    for loss in ("bce", "lsgan", "hinge"):
        assert accuracy(loss, real, fake) == (0.5, 0.5)


def test_accuracy_against_the_other_sides_mean() -> None:
    real = [torch.tensor([10.0, 11.0, 6.0, 13.0]).reshape(4, 1, 1, 1)]
    fake = [torch.tensor([9.0, 7.0, 11.0, 5.0]).reshape(4, 1, 1, 1)]
    for loss in ("wgan-gp", "relativistic"):
        # The fakes' mean is 8, the reals' 10.
        assert accuracy(loss, real, fake) == (0.75, 0.75)
        assert accuracy(loss, [real[0] - 100], [fake[0] - 100]) == (0.75, 0.75)
    assert accuracy("bce", real, fake) == (1.0, 0.0)


def test_accuracy_judges_a_samples_mean_over_all_maps() -> None:
    # Sample 0: (-1 + 3) / 2 = 1. Sample 1: (mean of 2, 2, 2, -10) = -1, and 0.5: below 0.
    maps = [torch.tensor([-1.0, 0.5]).reshape(2, 1, 1, 1), torch.tensor([[3.0] * 4, [2.0, 2.0, 2.0, -10.0]])]
    maps[1] = maps[1].reshape(2, 1, 2, 2)
    assert accuracy("bce", maps, maps) == (0.5, 0.5)
    maps[0][1] = 1.5
    assert accuracy("bce", maps, maps) == (1.0, 0.0)


def test_accuracy_of_non_finite_logits_is_not_a_win() -> None:
    broken = [torch.full((2, 1, 1, 1), float("nan"))]
    for loss in LOSSES:
        assert accuracy(loss, broken, broken) == (0.0, 0.0)


def test_pair_accuracy_compares_a_real_with_the_fake_of_its_index() -> None:
    real = [torch.tensor([10.0, 11.0, 6.0, 13.0]).reshape(4, 1, 1, 1)]
    fake = [torch.tensor([9.0, 12.0, 5.0, 13.0]).reshape(4, 1, 1, 1)]
    # Right, wrong, right, and a tie.
    assert pair_accuracy(real, fake) == 0.5
    assert pair_accuracy(fake, real) == 0.25
    assert pair_accuracy([real[0] - 100], [fake[0] - 100]) == 0.5
    assert pair_accuracy(real, [torch.full((4, 1, 1, 1), float("nan"))]) == 0.0


def test_pair_accuracy_weighs_maps_alike() -> None:
    # The small map says real by 2, each of four places of the large one fake by 1: real by 1/2 a map.
    real = [torch.full((1, 1, 1, 1), 2.0), torch.zeros(1, 1, 2, 2)]
    fake = [torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 2, 2)]
    assert pair_accuracy(real, fake) == 1.0
    assert pair_accuracy([real[0] / 2 - 0.1, real[1]], fake) == 0.0


def test_pair_accuracys_wrong_arguments_are_named() -> None:
    maps = [torch.zeros(2, 1, 2, 2)]
    with pytest.raises(ValueError, match="got 1 and 2"):
        pair_accuracy(maps, maps * 2)
    with pytest.raises(ValueError, match="real as fake samples, got 2 and 1"):
        pair_accuracy(maps, [maps[0][:1]])


# --- gradient penalty


def _linear(weight: Tensor) -> Callable[[Tensor, Tensor], list[Tensor]]:
    return lambda x, sigma: [(x * weight).flatten(1).sum(1)[:, None, None, None]]


@pytest.mark.parametrize("size", [0.0, 0.3, 1.0, 4.0])
def test_gradient_penalty_of_a_linear_discriminator(size: float) -> None:
    direction = _normal(16, 4, 4)
    weight = (size * direction / direction.norm()).requires_grad_(True)
    latents = [_normal(3, 16, 4, 4, seed=seed) for seed in (1, 2)]
    penalty = gradient_penalty(_linear(weight), *latents, torch.rand(3), torch.rand(3))
    assert penalty.item() == pytest.approx((size - 1) ** 2, abs=1e-12)
    (by_weight,) = torch.autograd.grad(penalty, weight)
    # d(|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|, and 0 by convention at w = 0.
    expected = 2 * (size - 1) * direction / direction.norm() if size else torch.zeros_like(direction)
    torch.testing.assert_close(by_weight, expected, rtol=1e-9, atol=1e-12)


def test_gradient_penalty_averages_maps_and_places() -> None:
    one, each = _normal(16, 4, 4, seed=1), _normal(16, 4, 4, seed=2)

    def discriminator(x: Tensor, sigma: Tensor) -> list[Tensor]:
        return [*_linear(one)(x, sigma), (x * each).sum(1, keepdim=True)]

    penalty = gradient_penalty(discriminator, _normal(2, 16, 4, 4), _normal(2, 16, 4, 4), torch.rand(2), torch.rand(2))
    assert penalty.item() == pytest.approx((((one + each / 16) / 2).norm().item() - 1) ** 2, rel=1e-10)


def test_gradient_penalty_is_taken_at_the_mix_and_level_of_each_sample() -> None:
    real, fake = _normal(3, 16, 4, 4, seed=1), _normal(3, 16, 4, 4, seed=2)
    sigma, mix = torch.tensor([0.1, 0.5, 1.0]).double(), torch.tensor([0.0, 0.25, 1.0]).double()

    def half_square(x: Tensor, sigma: Tensor) -> list[Tensor]:
        return [(sigma * x.flatten(1).square().sum(1) / 2)[:, None, None, None]]

    # The gradient at x is sigma x.
    points = [fake[0], 0.25 * real[1] + 0.75 * fake[1], real[2]]
    expected = sum((s * p.norm() - 1) ** 2 for s, p in zip(sigma, points, strict=True)) / 3
    assert gradient_penalty(half_square, real, fake, sigma, mix).item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_penaltys_own_gradient_by_finite_differences(architecture: str) -> None:
    network = _updated(architecture)
    given = (
        *(_normal(2, 16, 6, 6, seed=seed) for seed in (1, 2)),
        *(torch.tensor(pair, dtype=torch.float64) for pair in ([0.2, 0.7], [0.3, 0.6])),
    )
    weights = {name: p for name, p in network.named_parameters() if name.endswith("weight")}
    gradients = torch.autograd.grad(gradient_penalty(network, *given), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = _normal(*weight.shape, seed=3)
        direction *= 1e-6 / direction.norm()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * direction)
                # Without gradients, as when it is only logged, the penalty still needs its own.
                sides.append(gradient_penalty(network, *given).item())
                weight.sub_(sign * direction)
        slope = (sides[0] - sides[1]) / 2
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-14), name


def test_gradient_penalty_leaves_the_latents_and_weights_alone() -> None:
    network = _updated("cnn")
    real, fake = _normal(2, 16, 4, 4).requires_grad_(True), _normal(2, 16, 4, 4, seed=1).requires_grad_(True)
    gradient_penalty(network, real, fake, torch.rand(2), torch.rand(2)).backward()
    assert real.grad is None and fake.grad is None
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_gradient_penalty_of_half_precision_latents_is_fp32() -> None:
    network = build("cnn", width=8, depth=1, spectral_norm=False, seed=0)
    latents = [_normal(2, 16, 4, 4, seed=seed).bfloat16() for seed in (1, 2)]
    sigma, mix = torch.tensor([0.2, 0.8]), torch.full((2,), 0.3)
    found = gradient_penalty(network, *latents, sigma, mix)
    expected = gradient_penalty(network, *[x.float() for x in latents], sigma, mix)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


# --- errors


def test_wrong_arguments_are_named() -> None:
    logits = [torch.zeros(2, 1, 2, 2)]
    for call in (discriminator_loss, generator_loss, accuracy):
        with pytest.raises(ValueError, match="'wgan'; choose from bce, lsgan, wgan-gp, hinge, relativistic"):
            call("wgan", logits, logits)
        with pytest.raises(ValueError, match="got 1 and 2"):
            call("bce", *((logits, logits * 2) if call is not generator_loss else (logits * 2, logits)))
        with pytest.raises(ValueError, match="got 0 and 0"):
            call("bce", [], [])
    for call in (discriminator_loss, generator_loss):
        with pytest.raises(ValueError, match=r"\(2, 1, 2, 2\)"):
            call("relativistic", logits, [torch.zeros(1, 1, 2, 2)])
    network = _linear(torch.ones(16, 4, 4))
    latents = torch.zeros(2, 16, 4, 4)
    with pytest.raises(ValueError, match=r"got .* and \(1,\) shares"):
        gradient_penalty(network, latents, latents, torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(1, 16, 4, 4\)"):
        gradient_penalty(network, latents, latents[:1], torch.zeros(2), torch.zeros(2))


# --- training


def _white(count: int, draws: torch.Generator) -> Tensor:
    return torch.randn(count, 16, 8, 8, generator=draws)


def _smooth(count: int, draws: torch.Generator) -> Tensor:
    """Mean over 2x2 neighbours, scaled to unit variance: told from white noise by texture alone."""
    noise = _white(count, draws)
    return (noise + noise.roll(1, 2) + noise.roll(1, 3) + noise.roll((1, 1), (2, 3))) / 2


def _judged_after_training(
    architecture: str, loss: str, fakes: Callable[[int, torch.Generator], Tensor], spectral_norm: bool = False
) -> tuple[float, float]:
    """Accuracies on 512 + 512 samples that the training has not seen."""
    network = build(architecture, width=16, depth=2, spectral_norm=spectral_norm, seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.5, 0.99))
    steps = 120 if architecture == "mlp" else 60
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        real, fake, sigma = _white(24, draws), fakes(24, draws), torch.rand(24, generator=draws)
        value = discriminator_loss(loss, network(real, sigma), network(fake, sigma))
        if loss == "wgan-gp":
            value = value + 10 * gradient_penalty(network, real, fake, sigma, torch.rand(24, generator=draws))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        decay.step()
    sigma = torch.rand(512, generator=draws)
    with torch.no_grad():
        return accuracy(loss, network(_white(512, draws), sigma), network(fakes(512, draws), sigma))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_separable_latents_are_told_apart(architecture: str, loss: str) -> None:
    assert min(_judged_after_training(architecture, loss, _smooth)) > 0.9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_equal_laws_leave_guessing(architecture: str, loss: str) -> None:
    assert 0.35 < sum(_judged_after_training(architecture, loss, _white)) / 2 < 0.65


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spectral_norm_does_not_stop_learning(architecture: str) -> None:
    assert min(_judged_after_training(architecture, "hinge", _smooth, spectral_norm=True)) > 0.9
