"""Augmentation in latents: what it does to them, that an encoder agrees, and the controller of its probability."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from fluxduel.discriminator.augment import UNIFORMS, AdaptiveProbability, Augmentation, apply, draw

SIZES = [(4, 4), (6, 10), (16, 16), (64, 40), (128, 128)]


def _uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, UNIFORMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what is drawn


@pytest.mark.parametrize(("side", "furthest"), [(4, 2), (16, 2), (31, 2), (32, 4), (40, 4), (64, 8), (128, 16)])
def test_shifts_are_even_and_reach_an_eighth(side: int, furthest: int) -> None:
    drawn = draw(4000, side, side, 1.0, _uniforms(4000))
    for axis in (0, 1):
        values = {shift[axis] for shift in drawn.shifts}
        assert values == set(range(-furthest, furthest + 1, 2))
    # At least one of the two: that a sample is shifted means that it moves.
    assert (0, 0) not in drawn.shifts


def test_every_shift_is_as_likely() -> None:
    counts = Counter(draw(8000, 16, 32, 1.0, _uniforms(8000)).shifts)
    # Three rows and five columns, less the empty one: 571 each, deviation 23.
    assert len(counts) == 14
    assert all(abs(count - 8000 / 14) < 5 * 23 for count in counts.values())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cutouts_are_a_quarter_to_half_a_side_and_lie_inside(height: int, width: int) -> None:
    rectangles = torch.tensor(draw(4000, height, width, 1.0, _uniforms(4000)).rectangles)
    top, left, tall, wide = rectangles.unbind(1)
    for start, length, side in ((top, tall, height), (left, wide, width)):
        assert length.min() == math.ceil(side / 4) and length.max() == side // 2
        assert start.min() == 0 and (start + length).max() == side
    # Up to a quarter of the picture, and so at least three quarters stay.
    assert (tall * wide).max() <= height * width / 4


def test_probability_counts_for_each_transform_on_its_own() -> None:
    drawn = draw(4000, 16, 16, 0.3, _uniforms(4000))
    shifted = torch.tensor([shift != (0, 0) for shift in drawn.shifts]).double()
    cut = torch.tensor([rectangle != (0, 0, 0, 0) for rectangle in drawn.rectangles]).double()
    # Deviation 0.007; of both at once, which independence makes 0.09, 0.0045.
    assert shifted.mean().item() == pytest.approx(0.3, abs=0.03)
    assert cut.mean().item() == pytest.approx(0.3, abs=0.03)
    assert (shifted * cut).mean().item() == pytest.approx(0.09, abs=0.02)


def test_a_sample_depends_on_its_own_uniforms_alone() -> None:
    uniforms = _uniforms(6)
    whole = draw(6, 16, 24, 0.6, uniforms)
    for index in range(6):
        alone = draw(1, 16, 24, 0.6, uniforms[index : index + 1])
        assert alone == Augmentation((whole.shifts[index],), (whole.rectangles[index],))


def test_a_higher_probability_only_adds() -> None:
    uniforms = _uniforms(200)
    low, high = draw(200, 16, 16, 0.2, uniforms), draw(200, 16, 16, 0.7, uniforms)
    kept = [
        one in (other, (0,) * len(one))
        for one, other in zip((*low.shifts, *low.rectangles), (*high.shifts, *high.rectangles), strict=True)
    ]
    assert all(kept) and low != high


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (1, 1), (2, 3), (3, 8)])
def test_the_ends_of_the_uniforms_stay_in_range(height: int, width: int, uniform: float) -> None:
    row = torch.full((1, UNIFORMS), uniform, dtype=torch.float64)
    drawn = draw(1, height, width, 1.0, row)
    (shift,), ((top, left, tall, wide),) = drawn.shifts, drawn.rectangles
    assert abs(shift[0]) < height and abs(shift[1]) < width
    assert top >= 0 and left >= 0 and tall >= 1 and wide >= 1
    assert top + tall <= height and left + wide <= width
    assert apply(_normal(1, 2, height, width), drawn).shape == (1, 2, height, width)


# --- what is done


@pytest.mark.parametrize("shift", [(2, 0), (-2, 4), (0, -6), (4, 2)])
def test_a_shift_moves_latents_and_leaves_zeros(shift: tuple[int, int]) -> None:
    down, right = shift
    latents = _normal(1, 3, 8, 10)
    (found,) = apply(latents, Augmentation((shift,), ((0, 0, 0, 0),)))
    for row in range(8):
        for column in range(10):
            inside = 0 <= row - down < 8 and 0 <= column - right < 10
            expected = latents[0, :, row - down, column - right] if inside else torch.zeros(3).double()
            assert torch.equal(found[:, row, column], expected)


def test_a_cutout_zeroes_its_rectangle_in_every_channel_and_nothing_else() -> None:
    latents = _normal(1, 3, 8, 10)
    found = apply(latents, Augmentation(((0, 0),), ((1, 4, 2, 5),)))
    assert not found[:, :, 1:3, 4:9].any()
    assert (found == 0).sum() == 3 * 2 * 5
    assert torch.equal(found[found != 0], latents[found != 0])


def test_the_cutout_is_where_it_was_drawn_after_the_shift() -> None:
    latents = _normal(1, 3, 8, 8)
    moved = apply(latents, Augmentation(((2, -2),), ((0, 0, 0, 0),)))
    both = apply(latents, Augmentation(((2, -2),), ((4, 1, 3, 3),)))
    expected = moved.clone()
    expected[:, :, 4:7, 1:4] = 0
    assert torch.equal(both, expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_real_and_fake_are_treated_alike(height: int, width: int) -> None:
    real, fake = _normal(5, 2, height, width, seed=1), _normal(5, 2, height, width, seed=2)
    drawn = draw(5, height, width, 0.8, _uniforms(5))
    difference = apply(real, drawn) - apply(fake, drawn)
    torch.testing.assert_close(difference, apply(real - fake, drawn), rtol=0, atol=0)
    assert torch.equal(apply(real, drawn) == 0, apply(fake, drawn) == 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_probability_zero_does_nothing_and_one_always_does(height: int, width: int) -> None:
    latents = _normal(50, 2, height, width)
    assert torch.equal(apply(latents, draw(50, height, width, 0.0, _uniforms(50))), latents)
    # A uniform may be 0 itself.
    assert torch.equal(apply(latents, draw(50, height, width, 0.0, torch.zeros(50, UNIFORMS))), latents)
    changed = apply(latents, draw(50, height, width, 1.0, _uniforms(50)))
    assert all((a != b).any() for a, b in zip(changed, latents, strict=True))


def test_the_gradient_is_the_adjoint() -> None:
    """<apply(x), y> = <x, apply's gradient at y>, for a linear map: what is cut or pushed out gets no gradient."""
    latents = _normal(20, 2, 8, 12).requires_grad_(True)
    drawn, other = draw(20, 8, 12, 0.7, _uniforms(20)), _normal(20, 2, 8, 12, seed=5)
    found = apply(latents, drawn)
    (gradient,) = torch.autograd.grad(found, latents, other, create_graph=True)
    assert (found * other).sum().item() == pytest.approx((latents * gradient).sum().item(), rel=1e-10)
    # Each latent that is left is left once.
    (ones,) = torch.autograd.grad(apply(latents, drawn).sum(), latents)
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(ones.flatten(1).sum(1), (found != 0).flatten(1).sum(1).double())


def test_dtype_and_input_stay_as_they_are() -> None:
    latents = _normal(4, 2, 8, 8).bfloat16()
    before = latents.clone()
    assert apply(latents, draw(4, 8, 8, 1.0, _uniforms(4))).dtype == torch.bfloat16
    assert torch.equal(latents, before)
    assert apply(latents[:0], draw(0, 8, 8, 1.0, _uniforms(0))).shape == (0, 2, 8, 8)


@pytest.mark.parametrize("shift", [(2, 0), (-2, 2), (0, 4), (4, -2)])
def test_a_shift_commutes_with_a_convolutional_encoder(shift: tuple[int, int]) -> None:
    """Three convolutions of stride 2, as in FLUX's VAE: a shift by one latent is one by 8 pixels."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
    ).double()  # fmt: skip
    pixels = _normal(1, 3, 128, 128)
    moved = apply(pixels, Augmentation(((8 * shift[0], 8 * shift[1]),), ((0, 0, 0, 0),)))
    with torch.no_grad():
        found = encoder(moved)
        expected = apply(encoder(pixels), Augmentation((shift,), ((0, 0, 0, 0),)))
    # The encoder's padding and the vacated places reach two latents in.
    inside = [slice(max(offset, 0) + 2, 16 + min(offset, 0) - 2) for offset in shift]
    torch.testing.assert_close(found[..., inside[0], inside[1]], expected[..., inside[0], inside[1]])
    assert found[..., inside[0], inside[1]].std() > 0.01
    assert not torch.allclose(found[..., inside[0], inside[1]], encoder(pixels)[..., inside[0], inside[1]], rtol=0.1)


def test_wrong_arguments_are_named() -> None:
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            draw(1, 8, 8, probability, _uniforms(1))
    with pytest.raises(ValueError, match=r"shape \(2, 7\), got \(1, 7\)"):
        draw(2, 8, 8, 0.5, _uniforms(1))
    with pytest.raises(ValueError, match="for 2 samples, got 1"):
        apply(_normal(1, 2, 8, 8), draw(2, 8, 8, 0.5, _uniforms(2)))


# --- how often


def test_overfitting_is_the_held_out_reals_share_of_the_way_to_the_fakes() -> None:
    controller = AdaptiveProbability()
    assert controller.overfitting(2.0, 2.0, -2.0) == 0.0
    assert controller.overfitting(2.0, 1.0, -2.0) == pytest.approx(0.25)
    assert controller.overfitting(2.0, -2.0, -2.0) == 1.0
    # Where logits have no zero, nothing changes.
    assert controller.overfitting(102.0, 101.0, 98.0) == pytest.approx(0.25)


def test_the_probability_follows_overfitting() -> None:
    controller = AdaptiveProbability(0.2, target=0.5, rate=0.01)
    assert controller.update(1.0, -0.5, -1.0) == pytest.approx(0.75)
    assert controller.probability == pytest.approx(0.21)
    assert controller.update(1.0, 0.5, -1.0) == pytest.approx(0.25)
    assert controller.update(1.0, 0.5, -1.0) == pytest.approx(0.25)
    assert controller.probability == pytest.approx(0.19)
    assert controller.update(1.0, 0.0, -1.0) == 0.5
    assert controller.probability == pytest.approx(0.19)


def test_the_probability_settles_where_overfitting_meets_the_target() -> None:
    """A discriminator whose overfitting falls with augmentation, from 0.9 to 0.1: 0.5 is met at 0.5."""
    controller = AdaptiveProbability(rate=0.02)
    for _ in range(200):
        controller.update(1.0, 1.0 - 2 * (0.9 - 0.8 * controller.probability), -1.0)
    assert controller.probability == pytest.approx(0.5, abs=0.021)


def test_the_probability_is_clipped() -> None:
    controller = AdaptiveProbability(0.795, rate=0.01)
    for _ in range(3):
        controller.update(1.0, -1.0, -1.0)
    assert controller.probability == 0.8
    controller = AdaptiveProbability(0.005, rate=0.01)
    for _ in range(3):
        controller.update(1.0, 1.0, -1.0)
    assert controller.probability == 0.0
    assert AdaptiveProbability(1.0).probability == 0.8


@pytest.mark.parametrize(
    "verdicts",
    [
        (0.01, -5.0, 0.0),
        (0.0, -1.0, 0.0),
        (-1.0, 0.0, 1.0),
        (math.nan, 0.0, 0.0),
        (1.0, math.nan, 0.0),
        (1.0, 0.0, -math.inf),
    ],
)
def test_verdicts_that_say_nothing_move_nothing(verdicts: tuple[float, float, float]) -> None:
    controller = AdaptiveProbability(0.3)
    assert controller.update(*verdicts) is None
    assert controller.probability == 0.3


def test_the_controller_survives_a_checkpoint() -> None:
    controller, resumed = AdaptiveProbability(0.1), AdaptiveProbability(0.7)
    for _ in range(7):
        controller.update(1.0, -1.0, -1.0)
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    for one in (controller, resumed):
        one.update(1.0, -1.0, -1.0)
    assert controller.probability == resumed.probability == pytest.approx(0.18)
    with pytest.raises(KeyError, match="probability"):
        resumed.load_state_dict({})


def test_wrong_settings_are_named() -> None:
    for name in ("probability", "target", "rate", "ceiling"):
        with pytest.raises(ValueError, match=f"{name} of the adaptive"):
            AdaptiveProbability(**{name: 1.5})
    with pytest.raises(ValueError, match="least_gap"):
        AdaptiveProbability(least_gap=0.0)
