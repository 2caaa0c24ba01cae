"""How far generated latents are from real ones: distributions, spectrum, diversity, memorisation.

Functions of ``rows`` take any (n, d) vectors, functions of ``latents`` (n, c, h, w), both on the CPU. Nothing touches
the global random state, and equal arguments give equal numbers. Where the generated latents are not finite, the
results are NaN. ``measure`` puts all of them together; read its numbers beside those of ``floor``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .random_features import SMALLEST_SIDE, FeatureSpace

_MEMORISED_QUANTILE = 0.05
_PATCH_SIDE = 3
_MOST_PATCHES = 4096
# Rows whose distances to all others are computed at once, and pictures transformed at once: bounds on memory.
_CHUNK = 512
# Power below this share of the real channel's strongest bin counts as this share: a flat picture is very far from
# real ones, but not infinitely.
_POWER_FLOOR = 1e-12


def _rows(**sets: Tensor) -> list[Tensor]:
    """The named row sets in fp64; ``ValueError`` unless each is (at least 2, d) with the same d."""
    for name, rows in sets.items():
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"{name} must hold at least 2 rows, shape (n, d), got {tuple(rows.shape)}.")
    if len({rows.shape[1] for rows in sets.values()}) > 1:
        found = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in sets.items())
        raise ValueError(f"Rows of different lengths cannot be compared: {found}.")
    return [rows.double() for rows in sets.values()]


def _check_latents(least: int, **sets: Tensor) -> None:
    for name, latents in sets.items():
        if latents.ndim != 4 or len(latents) < least or min(latents.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"{name} must hold at least {least} latents, shape (n, channels, height, width), "
                f"with sides of at least {SMALLEST_SIDE}, got {tuple(latents.shape)}."
            )
    if len({latents.shape[1:] for latents in sets.values()}) > 1:
        found = ", ".join(f"{name} {tuple(latents.shape)}" for name, latents in sets.items())
        raise ValueError(f"Latents of different channels or sizes cannot be compared: {found}.")


def _symmetric_root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix; eigenvalues below 0 are rounding and count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.t()


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the normal laws fitted to rows (n, d) and (m, d) (arXiv:1706.08500, eq. 6).

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), S the unbiased covariances, which may be singular. Biased
    upwards where n or m is small: below 10 d rows compare it only at equal n and m, and beside the floor of real
    against real. Raises ``ValueError`` for fewer than 2 rows, or another d.
    """
    a, b = _rows(a=a, b=b)
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.nan
    difference = a.mean(0) - b.mean(0)
    # Not torch.cov, which gives a number instead of a 1x1 matrix for d = 1.
    covariances = [(x - x.mean(0)).t() @ (x - x.mean(0)) / (len(x) - 1) for x in (a, b)]
    # S_a S_b is not symmetric, but the trace of its root is the sum of the singular values of S_a^(1/2) S_b^(1/2).
    cross = torch.linalg.svdvals(_symmetric_root(covariances[0]) @ _symmetric_root(covariances[1])).sum()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * cross
    return (difference.square().sum() + spread).clamp_min(0).item()


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 512, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of rows (n, d) and (m, d), in the rows' own units (arXiv:1804.01947).

    Root mean square, over ``projections`` random unit directions drawn from ``seed``, of the exact distance of the
    projected rows; n and m may differ. A shift by v gives about |v| / sqrt(d). Does not fall to 0 with finite rows:
    two samples of one law differ, too. Raises ``ValueError`` for fewer than 2 rows, or another d.
    """
    a, b = _rows(a=a, b=b)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, a.shape[1], generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    sorted_a, sorted_b = ((directions @ rows.t()).sort(dim=1).values for rows in (a, b))
    # Both quantile functions are steps, at multiples of 1/n and of 1/m: in units of 1/(n m) the edges are integers.
    n, m = len(a), len(b)
    edges = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    widths = edges.diff().double() / (n * m)
    steps = sorted_a[:, edges[:-1] // m] - sorted_b[:, edges[:-1] // n]
    return (steps.square() @ widths).mean().sqrt().item()


def patches(
    latents: Tensor, side: int = _PATCH_SIDE, most: int = _MOST_PATCHES, seed: int = 0, *, centred: bool = False
) -> Tensor:
    """Square patches as rows (k, c * side * side), for ``sliced_wasserstein`` (arXiv:1710.10196, sec. 5).

    All n (h - side + 1) (w - side + 1) of them where that is at most ``most``, else ``most`` distinct ones drawn from
    ``seed``. A row's numbers are in the order of ``torch.nn.functional.unfold``. ``centred`` takes from each patch its
    own mean in each channel: what is left is its detail, which slow changes over a picture otherwise outweigh.
    Raises ``ValueError`` where the latents (n, c, h, w) are smaller than a patch.
    """
    if latents.ndim != 4 or len(latents) < 1 or side < 1 or min(latents.shape[2:]) < side:
        raise ValueError(f"There is no {side}x{side} patch in latents of shape {tuple(latents.shape)}.")
    tops, lefts = latents.shape[2] - side + 1, latents.shape[3] - side + 1
    places = torch.arange(len(latents) * tops * lefts)
    if len(places) > most:
        places = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:most]
    picture, place = places // (tops * lefts), places % (tops * lefts)
    span = torch.arange(side)
    y, x = (place // lefts)[:, None] + span, (place % lefts)[:, None] + span
    chosen = latents[picture[:, None, None], :, y[:, :, None], x[:, None, :]]
    if centred:
        chosen = chosen - chosen.mean((1, 2), keepdim=True)
    return chosen.permute(0, 3, 1, 2).flatten(1)


def polynomial_mmd(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of rows (n, d) and (m, d) with KID's kernel, (x.y / d + 1)^3.

    See arXiv:1801.01401, sec. 4. The unbiased estimator: 0 on average for two samples of one law whatever n and m,
    hence also negative, and the measure to prefer where real rows are few.
    Raises ``ValueError`` for fewer than 2 rows, or another d.
    """
    a, b = _rows(a=a, b=b)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.t() / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        gram = kernel(x, x)
        return (gram.sum() - gram.trace()) / (len(x) * (len(x) - 1))

    return (within(a) + within(b) - 2 * kernel(a, b).mean()).item()


def _radii(height: int, width: int) -> Tensor:
    """(height, width) radius of each frequency of fft2, in whole cycles per shorter side."""
    fy, fx = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.fftfreq(width, dtype=torch.float64)
    return (torch.hypot(fy[:, None], fx[None]) * min(height, width)).round().long()


def radial_spectrum(latents: Tensor) -> Tensor:
    """Mean power of each channel by frequency, (n, c, h, w) to (c, min(h, w) // 2 + 1), fp64.

    Bin r holds the frequencies of r cycles per shorter side, in any direction; the last is Nyquist's, and the corners
    beyond are left out. Each picture loses its mean and is tapered by a Hann window before |FFT2|^2, so that neither
    its brightness nor its edges leak into other bins. White noise of variance v gives v in every bin from 2 on.
    Raises ``ValueError`` unless h and w are at least 4.
    """
    _check_latents(1, latents=latents)
    height, width = latents.shape[2:]
    hann_y, hann_x = (torch.hann_window(side, dtype=torch.float64) for side in (height, width))
    window = hann_y[:, None] * hann_x
    power = torch.zeros(latents.shape[1:], dtype=torch.float64)
    for x in latents.split(_CHUNK):
        x = x.double()
        x = (x - x.mean((2, 3), keepdim=True)) * window
        power += torch.fft.fft2(x).abs().square().sum(0)
    power /= len(latents) * window.square().sum()
    radii = _radii(height, width).flatten()
    bins = torch.arange(min(height, width) // 2 + 1)
    member = (radii == bins[:, None]).double()
    return power.flatten(1) @ (member / member.sum(1, keepdim=True)).t()


def _spectra(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Power by channel and radius; ``real`` as latents, or as their power, which need not be computed at each call."""
    if real.ndim == 2:
        _check_latents(1, fake=fake)
        real_power = real
    else:
        _check_latents(1, fake=fake, real=real)
        real_power = radial_spectrum(real)
    fake_power = radial_spectrum(fake)
    if fake_power.shape != real_power.shape:
        raise ValueError(
            f"Spectra of other channels or sizes cannot be compared: {tuple(fake_power.shape)} and "
            f"{tuple(real_power.shape)} channels and radii."
        )
    least = (real_power.amax(1, keepdim=True) * _POWER_FLOOR).clamp_min(torch.finfo(torch.float64).tiny)
    return fake_power.maximum(least), real_power.maximum(least)


def spectrum_distance(fake: Tensor, real: Tensor) -> float:
    """Mean |log10(P_fake / P_real)| over channels and radii from 1 on: 0.3 is a factor of 2 in power.

    ``real``: latents, or what ``radial_spectrum`` makes of them. The channels' scales cancel. Raises ``ValueError`` for
    latents of other channels or sizes, or sides below 4.
    """
    fake_power, real_power = _spectra(fake, real)
    return (fake_power / real_power)[:, 1:].log10().abs().mean().item()


def high_frequency_ratio(fake: Tensor, real: Tensor) -> Tensor:
    """(c,) power of the top third of radii, from 2/3 of Nyquist's frequency on, over that of the real latents.

    1 is right, below 0.8 blurred, above 1.3 noisy or over-sharpened. Raises as ``spectrum_distance`` does.
    """
    fake_power, real_power = _spectra(fake, real)
    top = torch.arange(fake_power.shape[1]) * 3 >= min(fake.shape[2:])
    return fake_power[:, top].sum(1) / real_power[:, top].sum(1)


def diversity(rows: Tensor) -> float:
    """Mean Euclidean distance of two distinct rows of (n, d). Raises ``ValueError`` for fewer than 2 rows.

    About sqrt(2 d) for features of unit variance; compare it with that of as many real rows.
    """
    (rows,) = _rows(rows=rows)
    rows = rows - rows.mean(0)  # cdist multiplies matrices: a common offset would cost it digits
    total = sum(torch.cdist(part, rows).sum().item() for part in rows.split(_CHUNK))
    return total / (len(rows) * (len(rows) - 1))


def _nearest(rows: Tensor, others: Tensor) -> Tensor:
    """(n,) distance of each row to its nearest other; by differences, as a copy's distance must be exactly 0."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, others, compute_mode=exact).amin(1) for part in rows.split(_CHUNK)])


def memorised(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Share of fake rows closer to a training row than all but 5 % of unseen real rows are.

    A model that samples the true law gives about 0.05, copies of training rows give 1, pictures unlike any real one 0:
    so it says nothing about quality. With m held-out rows the limit is the (m + 1) / 20-th smallest of their distances
    to the nearest training row, which makes 0.05 the exact expectation; below 19 rows it is the smallest, and the
    expectation 1 / (m + 1). Give rows of a feature space: among raw latents a blurred picture is close to everything.
    Held-out rows that are themselves training rows pull the limit to 0, and hide copies.

    Raises ``ValueError`` for fewer than 2 rows, or rows of different lengths.
    """
    fake, train, held_out = _rows(fake=fake, train=train, held_out=held_out)
    real = _nearest(held_out, train)
    # torch.quantile takes the position (m - 1) q among positions from 0; see above for the one wanted.
    position = max(_MEMORISED_QUANTILE * (len(real) + 1) - 1, 0)
    limit = torch.quantile(real, position / (len(real) - 1))
    distances = _nearest(fake, train)
    return (distances < limit).double().where(distances.isfinite(), math.nan).mean().item()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Generated against held-out real latents, and how many pictures a side each number needs to say something.

    The first five are distances, better when smaller, but not below their ``floor``. The numbers of pictures come from
    synthetic textures of one law and of correlation lengths 17 % apart, which ``frechet`` tells apart from 200 on.
    """

    frechet: float
    """Squared, of the 80 random features. Two samples of n pictures of one law are about 1400 / n apart: below 100 it
    means little, and only numbers for equal n can be compared."""
    sliced_wasserstein: float
    """Of the random features. Two samples of one law are about 2.5 / sqrt(n) apart; means little below 100."""
    mmd: float
    """Squared, of the random features, with KID's kernel. Unbiased: 0 on average for one law with any n, hence also
    negative. The one of the three to read below 100 pictures; below 24 its scatter hides all but gross differences."""
    patch_sliced_wasserstein: float
    """Of at most 4096 centred 3x3 patches a side, channels in units of the real ones. Usable from 24 pictures on."""
    spectrum_distance: float
    """Mean |log10| of the power ratio over channels and radii: 0.3 is a factor of 2. Usable from 8 pictures on."""
    high_frequency: float
    """Power of the top third of radii over the real one, geometric mean over channels. Ideal: 1. Usable from 8 on."""
    diversity: float
    """Mean distance of two pictures' features over that of two held-out ones. Ideal: 1; below 0.8 is alarming. Within
    a tenth of its limit from 24 pictures on."""
    memorised: float
    """Share of pictures closer to training ones than all but 5 % of the held-out ones are. Ideal: 0.05, or
    1 / (number + 1) with fewer than 19 held-out pictures, where only outright copying shows."""


def measure(fake: Tensor, *, train: Tensor, held_out: Tensor, space: FeatureSpace) -> Measurement:
    """All metrics of latents ``fake`` (n, c, h, w) against ``held_out`` (m, c, h, w), in ``space``.

    ``train`` (k, c, h, w) are the real latents that were trained on: they serve ``memorised`` only. ``space`` is best
    fitted to them, as they are there before anything is generated. n, m and k may differ, but biased metrics are
    comparable only between measurements of equal n and m.

    Raises ``ValueError`` for fewer than 2 latents, sides below 4, or latents of different channels or sizes.
    """
    _check_latents(2, fake=fake, train=train, held_out=held_out)
    features, seen, real = space(fake), space(train), space(held_out)
    real_power = radial_spectrum(held_out)
    real_diversity = diversity(real)
    return Measurement(
        frechet=frechet(features, real),
        sliced_wasserstein=sliced_wasserstein(features, real),
        mmd=polynomial_mmd(features, real),
        patch_sliced_wasserstein=sliced_wasserstein(
            patches(space.standardised(fake), centred=True), patches(space.standardised(held_out), centred=True)
        ),
        spectrum_distance=spectrum_distance(fake, real_power),
        high_frequency=high_frequency_ratio(fake, real_power).log().mean().exp().item(),
        diversity=diversity(features) / real_diversity if real_diversity > 0 else math.nan,
        memorised=memorised(features, seen, real),
    )


def floor(*, train: Tensor, held_out: Tensor, space: FeatureSpace) -> Measurement:
    """What real latents score against real ones: nothing generated does better, except by chance.

    ``train`` (k, c, h, w) is measured as if generated, against ``held_out`` (m, c, h, w). Biased metrics depend on the
    number of pictures, so give as many training latents as ``measure`` gets generated ones where there are enough.
    A floor far from ideal says that the two sets do not follow one law, and that ``measure`` cannot be trusted.

    Training latents are their own nearest, so ``memorised`` is instead that of every second held-out latent against
    the others: 0.05, give or take what the number of latents leaves to chance.

    Raises ``ValueError`` as ``measure`` does, and for fewer than 4 held-out latents.
    """
    if len(held_out) < 4:
        raise ValueError(f"A floor needs at least 4 held-out latents, for two halves, got {len(held_out)}.")
    measured = measure(train, train=train, held_out=held_out, space=space)
    real = space(held_out)
    return replace(measured, memorised=memorised(real[::2], space(train), real[1::2]))
