"""Metrics of latents on distributions whose answers are known in closed form, or by brute force."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fluxduel.training.evidence import latent_metrics as metrics
from fluxduel.training.evidence.random_features import FeatureSpace, random_features


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texture(count: int, length: float, *, channels: int = 4, side: int = 8, seed: int = 0) -> Tensor:
    """Periodic normal noise of variance 1 whose correlations reach about ``length`` latents."""
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    gain = torch.exp(-2 * (math.pi * length) ** 2 * (f[:, None].square() + f.square()))
    gain /= gain.square().mean().sqrt()
    return torch.fft.ifft2(torch.fft.fft2(normal(count, channels, side, side, seed=seed)) * gain).real.float()


def blur(latents: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="circular"), 3, stride=1)


def exact_rows(count: int, mean: Tensor, root: Tensor, seed: int = 0) -> Tensor:
    """Rows whose sample mean is ``mean`` and whose sample covariance is ``root @ root.T``, both exactly."""
    rows = normal(count, len(mean), seed=seed)
    rows = rows - rows.mean(0)
    rows = torch.linalg.qr(rows).Q * math.sqrt(count - 1)
    return rows @ root.t() + mean


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


# Fréchet distance


def test_frechet_of_shifted_and_scaled_normals():
    """With commuting covariances: |shift|^2 + sum (sd_a - sd_b)^2."""
    sd_a, sd_b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    a = exact_rows(40, torch.zeros(3).double(), sd_a.diag(), seed=1)
    b = exact_rows(70, torch.tensor([1.0, -2.0, 0.0]).double(), sd_b.diag(), seed=2)
    assert metrics.frechet(a, b) == pytest.approx(5 + 4 + 1, rel=1e-10)
    assert metrics.frechet(b, a) == pytest.approx(10, rel=1e-10)


def test_frechet_of_covariances_that_do_not_commute():
    """In two dimensions tr (A B)^(1/2) = sqrt(tr(A B) + 2 sqrt(det(A B)))."""
    turn = rotation(2, seed=3)
    root_a, root_b = torch.tensor([3.0, 0.4]).double().diag(), turn @ torch.tensor([2.0, 0.1]).double().diag()
    a, b = (exact_rows(50, torch.zeros(2).double(), root, seed) for seed, root in ((4, root_a), (5, root_b)))
    s_a, s_b = root_a @ root_a.t(), root_b @ root_b.t()
    cross = (torch.trace(s_a @ s_b) + 2 * torch.det(s_a @ s_b).sqrt()).sqrt()
    expected = (s_a.trace() + s_b.trace() - 2 * cross).item()
    assert expected > 1
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_does_not_change_when_both_sets_are_moved_alike():
    a, b = normal(60, 6, seed=6), normal(50, 6, seed=7) * 2 + 1
    turn, shift = rotation(6, seed=8), normal(6, seed=9)
    assert metrics.frechet(a @ turn + shift, b @ turn + shift) == pytest.approx(metrics.frechet(a, b), rel=1e-9)


@pytest.mark.parametrize("count", [200, 5])
def test_frechet_of_a_set_with_itself_is_zero(count):
    """Also with a singular covariance: 5 rows of 20 numbers."""
    a = normal(count, 20, seed=10) * 100
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert metrics.frechet(a, a.flip(0)) == pytest.approx(0, abs=1e-8)


def test_frechet_of_single_numbers():
    a, b = exact_rows(9, torch.zeros(1).double(), torch.eye(1).double()), torch.tensor([[5.0], [5.0]])
    assert metrics.frechet(a, b) == pytest.approx(26)


# Sliced Wasserstein distance


@pytest.mark.parametrize("dims", [1, 3, 40])
def test_sliced_wasserstein_of_a_shift(dims):
    """A shift by v moves every direction u by v.u, whose mean square is |v|^2 / d."""
    a, shift = normal(30, dims, seed=1), normal(dims, seed=2)
    found = metrics.sliced_wasserstein(a, a + shift, projections=20_000)
    assert found == pytest.approx(shift.norm().item() / math.sqrt(dims), rel=0.03)


def test_sliced_wasserstein_of_shifted_normals_and_of_scaled_ones():
    a, b = normal(4000, 5, seed=3), normal(3000, 5, seed=4)
    assert metrics.sliced_wasserstein(a, b + 2) == pytest.approx(2, rel=0.05)
    assert metrics.sliced_wasserstein(a, 3 * b) == pytest.approx(2, rel=0.05)
    assert metrics.sliced_wasserstein(a, b) < 0.08


def test_sliced_wasserstein_ignores_the_order_of_rows():
    a, b = normal(25, 4, seed=5), normal(25, 4, seed=6)
    assert metrics.sliced_wasserstein(a, a.flip(0)) == pytest.approx(0, abs=1e-14)
    assert metrics.sliced_wasserstein(a.flip(0), b) == pytest.approx(metrics.sliced_wasserstein(a, b), rel=1e-12)


def test_sliced_wasserstein_of_unequal_numbers_is_that_of_repeated_rows():
    """4 and 6 rows, each repeated to 12, have the same empirical laws."""
    a, b = normal(4, 3, seed=7), normal(6, 3, seed=8)
    repeated = metrics.sliced_wasserstein(a.repeat_interleave(3, 0), b.repeat(2, 1))
    assert metrics.sliced_wasserstein(a, b) == pytest.approx(repeated, rel=1e-12)
    assert metrics.sliced_wasserstein(b, a) == pytest.approx(repeated, rel=1e-12)


# Patches


@pytest.mark.parametrize("side", [1, 3, 4])
def test_all_patches_are_those_of_unfold(side):
    latents = normal(3, 2, 5, 4).float()
    expected = F.unfold(latents, side).transpose(1, 2).flatten(0, 1)
    assert torch.equal(metrics.patches(latents, side), expected)


def test_chosen_patches_are_distinct_and_spread_over_the_pictures():
    latents = torch.arange(50 * 64).reshape(50, 1, 8, 8).float()
    chosen = metrics.patches(latents, most=200)
    every = {tuple(row) for row in metrics.patches(latents, most=10**6).tolist()}
    rows = [tuple(row) for row in chosen.tolist()]
    assert len(rows) == len(set(rows)) == 200 and set(rows) <= every
    assert len({row[0] // 64 for row in rows}) > 40
    assert torch.equal(chosen, metrics.patches(latents, most=200))
    assert not torch.equal(chosen, metrics.patches(latents, most=200, seed=1))


def test_centred_patches_lose_each_channels_mean_and_nothing_else():
    latents = normal(2, 3, 4, 4).float()
    plain = metrics.patches(latents).unflatten(1, (3, 9))
    centred = metrics.patches(latents, centred=True).unflatten(1, (3, 9))
    torch.testing.assert_close(centred, plain - plain.mean(2, keepdim=True))


def test_a_latent_without_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"no 3x3 patch in latents of shape \(2, 4, 2, 8\)"):
        metrics.patches(torch.zeros(2, 4, 2, 8))


# MMD


def test_mmd_is_the_double_loop_of_its_definition():
    a, b = normal(6, 3, seed=1), normal(5, 3, seed=2) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return (torch.dot(x, y).item() / 3 + 1) ** 3

    within_a = sum(kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j) / 30
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 30
    assert metrics.polynomial_mmd(a, b) == pytest.approx(within_a + within_b - 2 * across, rel=1e-10)


def test_mmd_of_one_law_is_zero_on_average_and_negative_at_times():
    found = torch.tensor(
        [metrics.polynomial_mmd(normal(12, 5, seed=2 * i), normal(9, 5, seed=2 * i + 1)) for i in range(400)]
    )
    error = found.std().item() / math.sqrt(len(found))
    assert abs(found.mean().item()) < 4 * error < 0.2
    assert found.min() < 0 < found.max()


def test_mmd_of_a_shifted_law_has_its_known_value():
    """E of (x.y + 1)^3 over independent N(a, 1), N(b, 1), d = 1: a third moment is m^3 + 3 m, a second m^2 + 1."""

    def expected_kernel(p: float, q: float) -> float:
        return (p**3 + 3 * p) * (q**3 + 3 * q) + 3 * (p**2 + 1) * (q**2 + 1) + 3 * p * q + 1

    expected = expected_kernel(0, 0) + expected_kernel(1, 1) - 2 * expected_kernel(0, 1)
    a, b = normal(4000, 1, seed=3), normal(4000, 1, seed=4) + 1
    assert metrics.polynomial_mmd(a, b) == pytest.approx(expected, rel=0.1)


# Spectrum


def test_the_spectrum_of_white_noise_is_its_variance():
    noise = torch.stack([1.5 * normal(2000, 16, 16, seed=1), 0.2 * normal(2000, 16, 16, seed=2)], 1) + 7
    spectrum = metrics.radial_spectrum(noise)
    assert spectrum.shape == (2, 9)
    for channel, variance in enumerate((2.25, 0.04)):
        expected = torch.full((7,), variance, dtype=torch.float64)
        torch.testing.assert_close(spectrum[channel, 2:], expected, rtol=0.03, atol=0)


def test_a_wave_peaks_at_its_own_radius_and_channel():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    waves = [torch.cos(2 * math.pi * (ky * y + kx * x) / 32) for ky, kx in ((3, 4), (0, 9), (14, 0), (5, 7))]
    spectrum = metrics.radial_spectrum(torch.stack(waves)[None] + 3)
    radii = [5, 9, 14, 9]  # the last is 8.6
    assert spectrum.argmax(1).tolist() == radii
    for power, radius in zip(spectrum, radii, strict=True):
        assert power[radius - 2 : radius + 3].sum() > 0.999 * power.sum()


def test_a_waves_direction_does_not_matter_in_a_picture_that_is_not_square():
    """A wavelength of 8 is 2 cycles per shorter side of 16, along either side."""
    position = 2 * math.pi * torch.arange(32.0) / 8
    along = position.cos().expand(1, 1, 16, 32)
    across = position[:16].cos()[:, None].expand(1, 1, 16, 32)
    for wave in (along, across):
        spectrum = metrics.radial_spectrum(wave)
        assert spectrum.shape == (1, 9) and spectrum.argmax() == 2


def test_the_spectrum_does_not_depend_on_how_many_pictures_are_transformed_at_once(monkeypatch):
    latents = texture(7, 0.5)
    whole = metrics.radial_spectrum(latents)
    monkeypatch.setattr(metrics, "_CHUNK", 3)
    torch.testing.assert_close(metrics.radial_spectrum(latents), whole)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_a_scale_shows_as_its_square_in_every_bin(scale):
    real = texture(10, 0.6, side=12)
    assert metrics.spectrum_distance(scale * real, real) == pytest.approx(2 * abs(math.log10(scale)), rel=1e-5)
    expected = torch.full((4,), scale**2, dtype=torch.float64)
    torch.testing.assert_close(metrics.high_frequency_ratio(scale * real, real), expected, rtol=1e-5, atol=0)


def test_the_spectrum_distance_is_blind_to_brightness_and_order_and_symmetric():
    fake, real = texture(20, 0.4, seed=1), texture(20, 0.8, seed=2)
    assert metrics.spectrum_distance(real.flip(0) + 5, real) == pytest.approx(0, abs=1e-4)
    assert metrics.spectrum_distance(fake, real) == pytest.approx(metrics.spectrum_distance(real, fake), rel=1e-10)
    assert metrics.spectrum_distance(fake, real) > 0.2


def test_the_spectrum_distance_counts_each_channel():
    """One of two channels scaled: half of what both would give."""
    real = texture(10, 0.6, channels=2)
    fake = real * torch.tensor([1.0, 10.0])[:, None, None]
    assert metrics.spectrum_distance(fake, real) == pytest.approx(1, rel=1e-5)
    expected = torch.tensor([1.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.high_frequency_ratio(fake, real), expected, rtol=1e-5, atol=0)


def test_blur_lowers_the_high_frequencies_and_noise_raises_them():
    real = texture(50, 0.6, side=16)
    blurred = blur(real)
    noisy = real + normal(*real.shape, seed=5).float()
    assert (metrics.high_frequency_ratio(blurred, real) < 0.3).all()
    assert (metrics.high_frequency_ratio(noisy, real) > 1.5).all()


def test_only_the_top_third_of_radii_counts_as_high():
    """Side 16: Nyquist's radius is 8, so radii 6, 7 and 8. A wave of radius 3 leaks to 4 at most."""
    real = texture(30, 0.3, side=16)
    wave = 50 * torch.cos(2 * math.pi * 3 * torch.arange(16.0) / 16).expand_as(real)
    torch.testing.assert_close(
        metrics.high_frequency_ratio(real + wave, real), torch.ones(4, dtype=torch.float64), rtol=1e-3, atol=0
    )
    shares = metrics.radial_spectrum(real)
    radius_6 = torch.cos(2 * math.pi * 6 * torch.arange(16.0) / 16).expand_as(real)
    added = metrics.radial_spectrum(radius_6)[:, 6:].sum(1) / shares[:, 6:].sum(1)
    torch.testing.assert_close(metrics.high_frequency_ratio(radius_6, real), added)


def test_a_flat_picture_is_far_away_but_finite():
    real = texture(10, 0.6)
    assert 6 < metrics.spectrum_distance(torch.zeros_like(real), real) <= 12
    assert (metrics.high_frequency_ratio(torch.zeros_like(real), real) < 1e-6).all()


# Diversity


def test_diversity_is_the_mean_over_distinct_pairs(monkeypatch):
    rows = normal(7, 3, seed=1) + 1000
    pairs = [(rows[i] - rows[j]).norm().item() for i in range(7) for j in range(i)]
    assert metrics.diversity(rows) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    monkeypatch.setattr(metrics, "_CHUNK", 3)
    assert metrics.diversity(rows) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)


def test_diversity_survives_a_large_common_offset():
    rows = normal(40, 3, seed=1)
    assert metrics.diversity(rows * 1e-3 + 1e5) == pytest.approx(1e-3 * metrics.diversity(rows), rel=1e-6)


def test_diversity_of_normals_is_known():
    """E|x - y| of N(0, I_d): 2 Gamma((d + 1) / 2) / Gamma(d / 2), nearly sqrt(2 d)."""
    dims = 64
    expected = 2 * math.exp(math.lgamma((dims + 1) / 2) - math.lgamma(dims / 2))
    assert expected == pytest.approx(math.sqrt(2 * dims), rel=0.01)
    assert metrics.diversity(normal(2000, dims, seed=2)) == pytest.approx(expected, rel=0.01)
    assert metrics.diversity(torch.ones(5, dims)) == 0


# Memorisation


def test_a_model_of_the_true_law_memorises_five_percent():
    """The standard deviation from 1500 held-out and 3000 generated rows is 0.007."""
    train, held_out, fake = normal(100, 4, seed=1), normal(1500, 4, seed=2), normal(3000, 4, seed=3)
    assert metrics.memorised(fake, train, held_out) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("held_out", "expected"), [(19, 0.05), (30, 0.05), (4, 0.2)])
def test_few_held_out_rows_do_not_bias_the_share(held_out, expected):
    shares = [
        metrics.memorised(
            normal(100, 3, seed=3 * i), normal(30, 3, seed=3 * i + 1), normal(held_out, 3, seed=3 * i + 2)
        )
        for i in range(300)
    ]
    shares = torch.tensor(shares)
    assert shares.mean().item() == pytest.approx(expected, abs=4 * shares.std().item() / math.sqrt(len(shares)))
    assert shares.std().item() / math.sqrt(len(shares)) < 0.01


def test_copies_are_memorised_and_strangers_are_not(monkeypatch):
    train, held_out = normal(40, 6, seed=4) + 50, normal(60, 6, seed=5) + 50
    copies = train[torch.arange(30) % 7]
    assert metrics.memorised(copies, train, held_out) == 1
    assert metrics.memorised(copies + 1e-4, train, held_out) == 1
    assert metrics.memorised(copies + 30, train, held_out) == 0
    half = torch.cat([copies, copies + 30])
    assert metrics.memorised(half, train, held_out) == 0.5
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    assert metrics.memorised(half, train, held_out) == 0.5


# Random features


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (3, 16, 8, 8), (2, 1, 5, 7), (2, 3, 16, 4)])
def test_features_of_any_size_from_four_on(shape):
    features = random_features(normal(*shape))
    assert features.shape == (shape[0], 80) and features.dtype == torch.float32 and features.isfinite().all()
    assert len(features.unique(dim=1).t()) == 80


def test_features_repeat_and_leave_the_global_random_state_alone():
    latents = texture(9, 0.5)
    before = torch.get_rng_state()
    features = random_features(latents)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(random_features(latents), features)
    torch.testing.assert_close(random_features(latents, batch=2), features)
    assert not torch.allclose(random_features(latents, seed=1), features, atol=0.1)


def test_features_count_over_places_not_at_them():
    """Inside a flat border, a spot may lie anywhere, on the grid of the halved scale."""
    here, there = torch.zeros(2, 1, 4, 20, 20).unbind(0)
    here[:, :, 6:8, 6:8] = there[:, :, 12:14, 10:12] = 1
    torch.testing.assert_close(random_features(here), random_features(there))
    assert not torch.allclose(random_features(here), random_features(2 * there), atol=1e-3)


def test_the_features_are_those_of_earlier_measurements():
    """Pinned, one of each kind and layer: with other features, distances noted down before would not compare."""
    wave = torch.cos(torch.arange(64.0).reshape(1, 1, 8, 8) * torch.tensor([0.3, 0.7, 1.1, 1.9]).reshape(1, 4, 1, 1))
    found = random_features(wave)[0, [0, 16, 32, 48, 64, 72]]
    torch.testing.assert_close(
        found, torch.tensor([0.2514, 0.3882, 0.0554, 0.2044, 0.0177, 0.088]), rtol=1e-3, atol=1e-4
    )


def test_a_space_is_standardised_on_the_real_latents():
    real = texture(200, 0.5) * torch.tensor([0.1, 1.0, 5.0, 40.0])[:, None, None] + 3
    space = FeatureSpace.fit(real)
    features = space(real)
    torch.testing.assert_close(features.mean(0), torch.zeros(80).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(features.std(0), torch.ones(80).double())
    channels = space.standardised(real).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(channels.std(1), torch.ones(4).double())
    other = texture(50, 0.5, seed=1) + 3
    assert torch.equal(space(other), FeatureSpace.fit(real)(other))
    assert not torch.allclose(FeatureSpace.fit(real, seed=1)(other), space(other), atol=0.1)


def test_a_space_does_not_depend_on_the_units_of_the_channels():
    real, other = texture(60, 0.5), texture(30, 0.7, seed=1)
    units = torch.tensor([0.01, 1.0, 8.0, 300.0])[:, None, None]
    torch.testing.assert_close(
        FeatureSpace.fit(real * units + 2)(other * units + 2), FeatureSpace.fit(real)(other), rtol=1e-3, atol=1e-3
    )


def test_a_channel_that_never_varies_stays_finite():
    real = texture(20, 0.5)
    real[:, 1] = 0.25
    space = FeatureSpace.fit(real)
    assert space(real).isfinite().all() and space(real + 1).isfinite().all()


@pytest.mark.parametrize("channels", [4, 16])
def test_textures_of_equal_variance_are_told_apart(channels):
    """Correlation lengths of 0.6 and 0.8 latents: far above what two samples of one law are apart."""
    real, same = (texture(300, 0.6, channels=channels, seed=s) for s in (1, 2))
    other = texture(300, 0.8, channels=channels, seed=3)
    space = FeatureSpace.fit(real)
    assert metrics.frechet(space(other), space(same)) > 2 * metrics.frechet(space(real), space(same))
    assert metrics.polynomial_mmd(space(other), space(same)) > 0.1 > metrics.polynomial_mmd(space(real), space(same))


# All together


def test_a_measurement_is_made_of_the_pieces():
    train, held_out, fake = texture(40, 0.6, seed=1), texture(30, 0.6, seed=2), texture(20, 0.8, seed=3) * 1.2
    space = FeatureSpace.fit(train)
    features, seen, real = space(fake), space(train), space(held_out)
    detail = [metrics.patches(space.standardised(x), centred=True) for x in (fake, held_out)]
    expected = metrics.Measurement(
        frechet=metrics.frechet(features, real),
        sliced_wasserstein=metrics.sliced_wasserstein(features, real),
        mmd=metrics.polynomial_mmd(features, real),
        patch_sliced_wasserstein=metrics.sliced_wasserstein(*detail),
        spectrum_distance=metrics.spectrum_distance(fake, held_out),
        high_frequency=math.prod(metrics.high_frequency_ratio(fake, held_out).tolist()) ** 0.25,
        diversity=metrics.diversity(features) / metrics.diversity(real),
        memorised=metrics.memorised(features, seen, real),
    )
    found = metrics.measure(fake, train=train, held_out=held_out, space=space)
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(expected), rel=1e-9)
    assert len({round(value, 6) for value in dataclasses.asdict(found).values()}) == 8


def test_the_floor_is_training_data_against_held_out_data():
    train, held_out = texture(40, 0.6, seed=1), texture(31, 0.6, seed=2)
    space = FeatureSpace.fit(train)
    found = metrics.floor(train=train, held_out=held_out, space=space)
    as_if_generated = metrics.measure(train, train=train, held_out=held_out, space=space)
    assert as_if_generated.memorised == 1
    share = metrics.memorised(space(held_out[::2]), space(train), space(held_out[1::2]))
    assert found == dataclasses.replace(as_if_generated, memorised=share)


def test_every_number_tells_a_good_model_from_blurred_and_copied_pictures():
    train, held_out, good = (texture(150, 0.6, seed=s) for s in (1, 2, 3))
    space = FeatureSpace.fit(train)
    floor = metrics.floor(train=train, held_out=held_out, space=space)
    fakes = (good, blur(good), train[:3].repeat(50, 1, 1, 1))
    good, blurred, copied = (metrics.measure(f, train=train, held_out=held_out, space=space) for f in fakes)
    for name in ("frechet", "sliced_wasserstein", "patch_sliced_wasserstein", "spectrum_distance"):
        assert getattr(good, name) < 1.5 * getattr(floor, name), name
        assert getattr(blurred, name) > 3 * getattr(floor, name), name
    assert abs(good.mmd) < 0.1 and abs(floor.mmd) < 0.1 < 1 < blurred.mmd
    assert good.high_frequency == pytest.approx(1, abs=0.1) and blurred.high_frequency < 0.2
    assert good.diversity == pytest.approx(1, abs=0.1) and copied.diversity < 0.8
    assert good.memorised < 0.2 and floor.memorised < 0.2 and blurred.memorised < 0.05 and copied.memorised == 1


@pytest.mark.parametrize(("channels", "side", "count"), [(16, 8, 8), (4, 4, 4), (16, 16, 2)])
def test_a_handful_of_pictures_gives_numbers(channels, side, count):
    train, held_out, fake = (texture(count, 0.5, channels=channels, side=side, seed=s) for s in (1, 2, 3))
    space = FeatureSpace.fit(train)
    measured = [metrics.measure(fake, train=train, held_out=held_out, space=space)]
    if count >= 4:
        measured.append(metrics.floor(train=train, held_out=held_out, space=space))
    assert all(math.isfinite(value) for found in measured for value in dataclasses.asdict(found).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_measures_as_nan(value):
    train, held_out, fake = (texture(20, 0.5, seed=s) for s in (1, 2, 3))
    fake[3, 0, 2, 2] = value
    found = metrics.measure(fake, train=train, held_out=held_out, space=FeatureSpace.fit(train))
    assert all(math.isnan(number) for number in dataclasses.asdict(found).values()), found


def test_a_measurement_repeats_and_leaves_the_global_random_state_alone():
    train, held_out, fake = (texture(100, 0.5, seed=s) for s in (1, 2, 3))
    space = FeatureSpace.fit(train)
    before = torch.get_rng_state()
    first = metrics.measure(fake, train=train, held_out=held_out, space=space)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert metrics.measure(fake, train=train, held_out=held_out, space=space) == first


# What is refused

ROWS = torch.zeros(3, 5)
LATENTS = texture(4, 0.5)


@pytest.mark.parametrize("metric", [metrics.frechet, metrics.sliced_wasserstein, metrics.polynomial_mmd])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.zeros(1, 5), r"b must hold at least 2 rows, shape \(n, d\), got \(1, 5\)"),
        (torch.zeros(3, 5, 1), r"b must hold at least 2 rows, shape \(n, d\), got \(3, 5, 1\)"),
        (torch.zeros(3, 4), r"different lengths .* a \(3, 5\), b \(3, 4\)"),
    ],
)
def test_rows_that_do_not_compare_are_refused(metric, other, message):
    with pytest.raises(ValueError, match=message):
        metric(ROWS, other)


def test_single_rows_have_no_diversity_and_no_neighbours():
    with pytest.raises(ValueError, match="rows must hold at least 2 rows"):
        metrics.diversity(ROWS[:1])
    with pytest.raises(ValueError, match="held_out must hold at least 2 rows"):
        metrics.memorised(ROWS, ROWS, ROWS[:1])


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (LATENTS[:1], r"fake must hold at least 2 latents.* got \(1, 4, 8, 8\)"),
        (LATENTS[..., :3], r"sides of at least 4, got \(4, 4, 8, 3\)"),
        (LATENTS[:, :3], r"different channels or sizes .* fake \(4, 3, 8, 8\), train \(4, 4, 8, 8\)"),
        (LATENTS[..., :6], r"different channels or sizes .* fake \(4, 4, 8, 6\)"),
    ],
)
def test_latents_that_do_not_compare_are_refused(fake, message):
    with pytest.raises(ValueError, match=message):
        metrics.measure(fake, train=LATENTS, held_out=LATENTS, space=FeatureSpace.fit(LATENTS))


@pytest.mark.parametrize("metric", [metrics.spectrum_distance, metrics.high_frequency_ratio])
def test_spectra_that_do_not_compare_are_refused(metric):
    with pytest.raises(ValueError, match="different channels or sizes"):
        metric(LATENTS[:, :3], LATENTS)
    with pytest.raises(ValueError, match="sides of at least 4"):
        metric(LATENTS[:, :, :3], LATENTS[:, :, :3])


def test_a_space_refuses_single_and_foreign_latents():
    with pytest.raises(ValueError, match=r"at least 2 latents.* got \(1, 4, 8, 8\)"):
        FeatureSpace.fit(LATENTS[:1])
    with pytest.raises(ValueError, match=r"\(n, 4, height, width\), got \(4, 3, 8, 8\)"):
        FeatureSpace.fit(LATENTS)(LATENTS[:, :3])
    with pytest.raises(ValueError, match=r"sides of at least 4, got \(4, 4, 3, 8\)"):
        random_features(LATENTS[:, :, :3])


def test_a_floor_needs_two_halves():
    with pytest.raises(ValueError, match="at least 4 held-out latents, for two halves, got 3"):
        metrics.floor(train=LATENTS, held_out=LATENTS[:3], space=FeatureSpace.fit(LATENTS))
