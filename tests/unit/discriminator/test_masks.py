"""Masks in the losses and penalties: what lies beyond them has no part, and a mask of ones changes no bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fluxduel.discriminator import augment, losses, networks, regularisers
from fluxduel.discriminator.masks import place_weights, share_of_highest

LEFT = torch.zeros(3, 1, 8, 8)
LEFT[..., :4] = 1.0
ONES = torch.ones(3, 1, 8, 8)


def maps(seed: int, sizes=((8, 8), (4, 4), (2, 2))) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 1, *size, generator=generator) for size in sizes]


def left_half(some: list[Tensor]) -> list[Tensor]:
    return [m[..., : m.shape[-1] // 2] for m in some]


VALUES = {
    **{
        f"{loss}-discriminator": lambda real, fake, mask=None, loss=loss: losses.discriminator_loss(
            loss, real, fake, mask
        )
        for loss in losses.LOSSES
    },
    **{
        f"{loss}-generator": lambda real, fake, mask=None, loss=loss: losses.generator_loss(loss, fake, real, mask)
        for loss in losses.LOSSES
    },
    "centring": regularisers.centring,
    "lecam": lambda real, fake, mask=None: regularisers.lecam(real, fake, 0.3, -0.2, mask),
    "approximate slope": lambda real, fake, mask=None: regularisers.approximate_slope(real, fake, 0.1, mask),
    "verdicts": lambda real, fake, mask=None: losses.verdicts(real, mask) - losses.verdicts(fake, mask),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_masked_value_is_that_of_the_part_within(name):
    real, fake = maps(0), maps(1)
    masked = VALUES[name](real, fake, LEFT)
    torch.testing.assert_close(masked, VALUES[name](left_half(real), left_half(fake)))
    whole = VALUES[name](real, fake)
    assert torch.equal(VALUES[name](real, fake, ONES), whole)
    assert not torch.allclose(masked, whole, rtol=1e-3)


@pytest.mark.parametrize("name", VALUES)
def test_a_mask_is_each_samples_own_and_its_scale_is_none(name):
    """Two samples with unlike areas weigh the same, and half of a mask's values weigh like all of them."""
    real, fake = maps(2), maps(3)
    mask = LEFT.clone()
    mask[1] = 1.0
    got = VALUES[name](real, fake, mask)
    torch.testing.assert_close(VALUES[name](real, fake, 0.5 * mask), got)
    if name != "verdicts":
        each = [
            VALUES[name]([m[row : row + 1] for m in real], [m[row : row + 1] for m in fake], mask[row : row + 1])
            for row in range(3)
        ]
        torch.testing.assert_close(torch.stack(each).mean(), got)


def test_a_mask_of_zeros_weighs_nothing():
    mask = LEFT.clone()
    mask[2] = 0.0
    assert all(bool((weights[2] == 0).all()) for weights in place_weights(mask, maps(0)))
    assert bool((share_of_highest(mask)[2] == 0).all()) and torch.equal(share_of_highest(mask * 0.25), mask)


@pytest.mark.parametrize("architecture", ["patch_cnn", "cnn", "mlp"])
def test_the_exact_slope_is_by_the_latents_within_of_the_verdicts_within(architecture):
    """Against one backward pass for each logit, averaged over signs; ones change no bit."""
    network = networks.build(architecture, width=8, depth=1, spectral_norm=False, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator).double()
    x = torch.randn(3, 16, 8, 8, generator=generator).double()
    level = torch.tensor([0.2, 0.5, 0.8]).double()
    mask = LEFT.double().clone()
    mask[0, :, :2] = 0.5
    expected = 0.0
    for row in range(3):
        leaf = x[row : row + 1].clone().requires_grad_()
        found = network(leaf, level[row : row + 1])
        for logits, weights in zip(found, place_weights(mask[row : row + 1], found), strict=True):
            slopes = [
                (torch.autograd.grad(logit, leaf, retain_graph=True)[0] * (mask[row] > 0)).square().sum()
                for logit in logits.flatten()
            ]
            expected += (torch.stack(slopes) * weights.flatten()).mean().item() / (3 * len(found))

    def slope(mask: Tensor | None, seed: int) -> Tensor:
        drawn = torch.Generator().manual_seed(seed)
        return regularisers.exact_slope(
            lambda x: network(x, level), x, lambda maps: regularisers.random_signs(maps, drawn), mask
        )

    values = torch.stack([slope(mask, seed) for seed in range(400)])
    assert values.mean().item() == pytest.approx(expected, abs=4.5 * (values.std() / 20).item() + 1e-9)
    assert torch.equal(slope(ONES.double(), 0), slope(None, 0))


def test_the_gradient_penalty_is_that_of_the_part_within():
    network = networks.build("cnn", width=8, depth=1, spectral_norm=False, seed=0)
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(3, 16, 8, 8, generator=generator) for _ in range(2))
    level, mix = torch.rand(3, generator=generator), torch.rand(3, generator=generator)
    got = losses.gradient_penalty(network, real, fake, level, mix, LEFT)
    x = (mix[:, None, None, None] * real + (1 - mix[:, None, None, None]) * fake).requires_grad_()
    (logits,) = network(x, level)
    (gradient,) = torch.autograd.grad(logits[..., : logits.shape[-1] // 2].mean((1, 2, 3)).sum(), x)
    norms = gradient[..., :4].flatten(1).norm(dim=1)
    assert got.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-5)
    whole = losses.gradient_penalty(network, real, fake, level, mix)
    assert torch.equal(losses.gradient_penalty(network, real, fake, level, mix, ONES), whole)
    assert got.item() != pytest.approx(whole.item(), rel=1e-3)


def test_a_mask_follows_its_latents():
    """Where latents are shifted to, their mask is; what moves in continues the edge."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(40, 1, 8, 12, generator=generator)
    drawn = augment.draw(40, 8, 12, 0.7, torch.rand(40, augment.UNIFORMS, generator=generator))
    followed = augment.follow(mask, drawn)
    # As if the mask were latents; cut out and vacated places, which are 0 there, apart.
    shifted = augment.apply(mask, drawn)
    assert torch.equal(followed[shifted != 0], shifted[shifted != 0])
    assert bool((shifted == 0).any()) and any(shift != (0, 0) for shift in drawn.shifts)
    assert torch.equal(augment.follow(torch.ones(40, 1, 8, 12), drawn), torch.ones(40, 1, 8, 12))
    edged = torch.zeros(1, 1, 8, 8)
    edged[..., 6:] = 1.0
    one = augment.Augmentation(((0, -2),), ((0, 0, 0, 0),))
    assert augment.follow(edged, one)[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
