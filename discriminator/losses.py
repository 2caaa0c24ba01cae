"""Adversarial losses on logit maps.

Every loss is the mean over maps of the mean over samples of the sample's mean, so the average over equal micro-batches
is the loss of the whole batch. With a ``mask`` (B, 1, h, w) of the pictures a sample's mean is the one over its masked
area (see ``place_weights``). Logits in half precision are judged in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .masks import inside, weighed

LOSSES = ("bce", "lsgan", "wgan-gp", "hinge", "relativistic")
# Their logits have no natural zero: only differences between real and fake enter these losses.
_RELATIVE = ("wgan-gp", "relativistic")


def wide(tensor: Tensor) -> Tensor:
    """``tensor``, in fp32 if it was in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _known(loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"Unknown adversarial loss {loss!r}; choose from {', '.join(LOSSES)}.")


def check_matched(real: Sequence[Tensor], fake: Sequence[Tensor], paired: bool) -> None:
    """Raises ``ValueError`` for unlike numbers of maps, or, where ``paired``, for maps of unlike shapes."""
    if not real or len(real) != len(fake):
        raise ValueError(f"Expected as many logit maps of real as of fake samples, got {len(real)} and {len(fake)}.")
    for r, f in zip(real, fake, strict=True):
        if paired and r.shape != f.shape:
            raise ValueError(
                f"Real and fake logits are paired by sample and place here, so their maps must have the same shape, "
                f"got {tuple(r.shape)} and {tuple(f.shape)}."
            )


def mean_over_maps(value: Callable[..., Tensor], *maps: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """The scalar mean over maps of the mean of ``value``, so every map counts the same, however many places it has.

    ``value`` is called with the first map of each of ``maps``, then with the second of each, and so on, in fp32 or
    wider. ``mask`` weighs its places. Raises ``ValueError`` for unlike numbers of maps.
    """
    values = [value(*map(wide, group)) for group in zip(*maps, strict=True)]
    return torch.stack([each.mean() for each in weighed(values, mask)]).mean()


def discriminator_loss(
    loss: str, real: Sequence[Tensor], fake: Sequence[Tensor], mask: Tensor | None = None
) -> Tensor:
    """The discriminator's loss, a scalar to be minimised. ``real``, ``fake``: logit maps, each (B, 1, h', w').

    ``bce``: ``softplus(-r) + softplus(f)``, the original value function with ``D = sigmoid(logit)`` (arXiv:1406.2661,
    eq. 1); 2 ln 2 at logits 0.
    ``lsgan``: ``(r - 1)^2 + (f + 1)^2`` (arXiv:1611.04076, eq. 2 with b = 1, a = -1, without its factor 1/2).
    ``wgan-gp``: ``f - r`` (arXiv:1704.00028, eq. 3), to which the caller adds ``gradient_penalty``.
    ``hinge``: ``relu(1 - r) + relu(1 + f)`` (arXiv:1802.05957, eq. 16).
    ``relativistic``: ``softplus(-(r - f))``, each fake paired with the real of the same index and place
    (arXiv:1807.00734, sec. 4.1, RpGAN; arXiv:2501.05441, eq. 2); ln 2 at equal logits.

    Raises ``ValueError`` for another loss, or maps that do not match.
    """
    _known(loss)
    check_matched(real, fake, paired=loss == "relativistic")
    mean = functools.partial(mean_over_maps, mask=mask)
    if loss == "relativistic":
        return mean(lambda r, f: F.softplus(f - r), real, fake)
    if loss == "bce":
        return mean(lambda r: F.softplus(-r), real) + mean(F.softplus, fake)
    if loss == "lsgan":
        return mean(lambda r: (r - 1).square(), real) + mean(lambda f: (f + 1).square(), fake)
    if loss == "hinge":
        return mean(lambda r: F.relu(1 - r), real) + mean(lambda f: F.relu(1 + f), fake)
    return mean(lambda f: f, fake) - mean(lambda r: r, real)


def generator_loss(
    loss: str, fake: Sequence[Tensor], real: Sequence[Tensor], mask: Tensor | None = None
) -> Tensor:
    """The generator's loss, a scalar to be minimised. ``fake``, ``real``: logit maps, each (B, 1, h', w').

    ``bce``: ``softplus(-f)``, the non-saturating form (arXiv:1406.2661, sec. 3); ``lsgan``: ``(f - 1)^2``
    (arXiv:1611.04076, eq. 2 with c = 1, without its factor 1/2); ``wgan-gp`` and ``hinge``: ``-f`` (arXiv:1704.00028,
    eq. 2; arXiv:1802.05957, eq. 17); ``relativistic``: ``softplus(-(f - r))`` (arXiv:1807.00734, sec. 4.1), the only
    one that looks at ``real``.

    Raises ``ValueError`` for another loss, or maps that do not match.
    """
    _known(loss)
    check_matched(real, fake, paired=loss == "relativistic")
    mean = functools.partial(mean_over_maps, mask=mask)
    if loss == "relativistic":
        return mean(lambda r, f: F.softplus(r - f), real, fake)
    if loss == "bce":
        return mean(lambda f: F.softplus(-f), fake)
    if loss == "lsgan":
        return mean(lambda f: (f - 1).square(), fake)
    return mean(lambda f: -f, fake)


def verdicts(maps: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """(B,), a verdict a sample: each sample's mean over maps of its mean logit, which a ``mask`` weighs."""
    return torch.stack([m.flatten(1).mean(1) for m in weighed([wide(m) for m in maps], mask)]).mean(0)


def accuracy(loss: str, real: Sequence[Tensor], fake: Sequence[Tensor]) -> tuple[float, float]:
    """Shares of the real and of the fake samples that lie on the right side, each in [0, 1]; 0.5 is guessing.

    A sample's logit is its mean over all maps. ``bce``, ``lsgan`` and ``hinge``: a real is right above 0, a fake below.
    ``relativistic`` and ``wgan-gp`` fix no zero: a real is right above the mean of the fakes, a fake below the mean of
    the reals (so here, unlike for the losses, micro-batches do not average to the batch exactly). A tie is not right.

    Raises ``ValueError`` for another loss, or maps that do not match.
    """
    _known(loss)
    check_matched(real, fake, paired=False)
    with torch.no_grad():
        r, f = verdicts(real), verdicts(fake)
        above, below = (f.mean(), r.mean()) if loss in _RELATIVE else (0.0, 0.0)
        return (r > above).double().mean().item(), (f < below).double().mean().item()


def pair_accuracy(real: Sequence[Tensor], fake: Sequence[Tensor]) -> float:
    """Share of samples whose real verdict lies above the fake verdict of the same index, in [0, 1]; 0.5 is guessing.

    A verdict is a sample's mean over maps of its mean logit. This is what the relativistic loss is about, and, unlike
    ``accuracy``, it means the same for every loss and averages over micro-batches. A tie is not right.

    Raises ``ValueError`` for unlike numbers of maps or samples.
    """
    check_matched(real, fake, paired=False)
    if real[0].shape[0] != fake[0].shape[0]:
        raise ValueError(f"Expected as many real as fake samples, got {real[0].shape[0]} and {fake[0].shape[0]}.")
    with torch.no_grad():
        return (verdicts(real) > verdicts(fake)).double().mean().item()


def gradient_penalty(
    discriminator: Callable[[Tensor, Tensor], Sequence[Tensor]],
    real: Tensor,
    fake: Tensor,
    sigma: Tensor,
    mix: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """``mean((|grad_x D(x, sigma)| - 1)^2)`` at ``x = mix real + (1 - mix) fake`` (arXiv:1704.00028, eq. 3), a scalar.

    ``real``, ``fake``: (B, C, h, w) latents at the noise levels ``sigma`` (B,); ``mix``: (B,) in [0, 1]. ``D`` is a
    sample's mean over maps of its mean logit, the gradient's norm is taken for each sample, the mean over the batch.
    With a ``mask`` both are those of its area: beyond it ``real`` and ``fake`` are the same, and D need not move.
    Differentiable by the discriminator's weights; ``real`` and ``fake`` get no gradient. Not weighted.

    Raises ``ValueError`` where the shapes do not match.
    """
    if real.shape != fake.shape or mix.shape != real.shape[:1]:
        raise ValueError(
            f"The gradient penalty mixes real with fake of the same shape, one share a sample, "
            f"got {tuple(real.shape)}, {tuple(fake.shape)} and {tuple(mix.shape)} shares."
        )
    real, fake = wide(real.detach()), wide(fake.detach())
    share = mix.detach().to(real).reshape(-1, *[1] * (real.ndim - 1))
    with torch.enable_grad():
        x = (share * real + (1 - share) * fake).requires_grad_(True)
        # Samples are independent, so the gradient of the sum holds each sample's own.
        (gradient,) = torch.autograd.grad(verdicts(discriminator(x, sigma), mask).sum(), x, create_graph=True)
        if mask is not None:
            gradient = gradient * inside(mask)
        return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
