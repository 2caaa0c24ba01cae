"""The heads of flux_features against a derivation of their own: norm, noise level, prompt, residual, spectral norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.discriminator.flux_features import FluxFeatures
from fluxduel.discriminator.interface import Conditioning, Seen

TRUNK, POOLED, WIDTH, TAPS = 10, 6, 8, 2
WEIGHT = {True: "parametrizations.weight.original", False: "weight"}


def heads(**changes: Any) -> FluxFeatures:
    """Two heads in float64 with something to say: all their weights are moved at random."""
    network = FluxFeatures(
        lambda latents, sigma, conditioning: [latents] * TAPS, taps=TAPS, trunk_width=TRUNK, pooled_dim=POOLED,
        **{"width": WIDTH, **changes},
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return network


def seen(rows: int = 2, side: int = 5, seed: int = 2) -> Seen:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    features = tuple(draw(rows, TRUNK, side, side) for _ in range(TAPS))
    return Seen(features, torch.rand(rows, generator=generator, dtype=torch.float64), draw(rows, POOLED))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def by_hand(w: dict[str, Tensor], features: Tensor, sigma: Tensor, pooled: Tensor) -> Tensor:
    """Logits (h, w) of one sample (trunk width, h, w), place by place, from a head's weights."""
    angles = sigma * torch.logspace(0, 2, 32).double()
    embedding = silu(w["embedding.layer.weight"] @ torch.cat([angles.sin(), angles.cos()]) + w["embedding.layer.bias"])
    condition = embedding + silu(w["text.weight"] @ pooled + w["text.bias"])
    modulation = w["film.layer.weight"] @ condition + w["film.layer.bias"]
    scale, shift = modulation[0::2], modulation[1::2]
    channels, height, width = features.shape
    hidden = torch.zeros(WIDTH, height + 2, width + 2, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            x = features[:, row, column]
            x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            x = w["project.weight"][:, :, 0, 0] @ x + w["project.bias"]
            hidden[:, row + 1, column + 1] = leaky(x * (1 + scale.tanh()) + shift)
    logits = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            around = hidden[:, row : row + 3, column : column + 3]
            beside = (w["residual.weight"] * around).sum((1, 2, 3)) + w["residual.bias"]
            x = hidden[:, row + 1, column + 1] + leaky(beside)
            logits[row, column] = w["logits.weight"][0, :, 0, 0] @ x + w["logits.bias"][0]
    return logits


def weights_of(network: FluxFeatures, number: int, normed: bool) -> dict[str, Tensor]:
    """One head's weights by name; those under spectral norm divided by their largest singular value."""
    own = {name.removeprefix(f"heads.{number}."): value for name, value in network.state_dict().items()}
    for layer in ("project", "residual", "logits"):
        weight = own[f"{layer}.{WEIGHT[normed]}"]
        gain = torch.linalg.matrix_norm(weight.flatten(1), 2) if normed else 1.0
        own[f"{layer}.weight"] = weight / gain
        own[f"{layer}.bias"] = own[f"{layer}.bias"]
    return own


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_heads_are_what_they_are_said_to_be(spectral_norm: bool) -> None:
    network, given = heads(spectral_norm=spectral_norm), seen()
    with torch.no_grad():
        maps = network.judge(given)
    assert len(maps) == TAPS and not torch.allclose(*maps)
    for number, logits in enumerate(maps):
        own = weights_of(network, number, spectral_norm)
        for row in range(2):
            expected = by_hand(own, given.features[number][row], given.sigma[row], given.pooled[row])
            # The power iteration of the spectral norm ends a little early.
            torch.testing.assert_close(logits[row, 0], expected, rtol=1e-3, atol=1e-3 if spectral_norm else 1e-6)


def test_the_size_and_the_mean_of_features_do_not_count() -> None:
    """Magnitudes of a transformer's hidden states differ by orders between blocks, and between places."""
    network, given = heads(), seen()
    generator = torch.Generator().manual_seed(3)
    sizes = 100 * torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64) + 10
    with torch.no_grad():
        plain = network.judge(given)
        scaled = network.judge(given._replace(features=tuple(f * sizes + sizes / 3 for f in given.features)))
        other = network.judge(given._replace(features=tuple(f.flip(1) for f in given.features)))
    for a, b, c in zip(plain, scaled, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(a, c, rtol=1e-2)


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("what", ["features", "sigma", "pooled"])
def test_every_head_looks_at_all_that_it_is_given(what: str, spectral_norm: bool) -> None:
    network, given = heads(spectral_norm=spectral_norm), seen()
    value = given.features if what == "features" else getattr(given, what)
    changed = tuple(f.roll(1, 1) for f in value) if what == "features" else 0.5 * value
    with torch.no_grad():
        for a, b in zip(network.judge(given), network.judge(given._replace(**{what: changed})), strict=True):
            assert not torch.allclose(a, b, rtol=1e-3)


def test_a_verdict_looks_at_its_place_and_those_beside_it() -> None:
    network, given = heads(), seen(side=7)
    features = tuple(f.clone().requires_grad_() for f in given.features)
    for logits, own in zip(network.judge(given._replace(features=features)), features, strict=True):
        (gradient,) = torch.autograd.grad(logits[0, 0, 3, 3], own)
        reached = gradient[0].abs().sum(0) > 0
        expected = torch.zeros(7, 7, dtype=torch.bool)
        expected[2:5, 2:5] = True
        assert torch.equal(reached, expected) and not bool(gradient[1].any())


def test_without_the_3x3_the_place_itself_is_still_judged() -> None:
    network, given = heads(), seen()
    for head in network.heads:
        head.residual.weight.data.zero_(), head.residual.bias.data.zero_()
    with torch.no_grad():
        assert all(logits.std() > 1e-3 for logits in network.judge(given))


def test_the_trunk_is_given_the_latents_their_level_and_their_prompts() -> None:
    asked: list[tuple[Any, ...]] = []

    def features(*given: Any) -> list[Tensor]:
        asked.append(given)
        return [torch.zeros(2, TRUNK, 2, 2)] * TAPS

    network = FluxFeatures(features, taps=TAPS, trunk_width=TRUNK, pooled_dim=POOLED, width=WIDTH)
    latents, sigma = torch.zeros(2, 16, 4, 4), torch.tensor([0.2, 0.7])
    prompts = Conditioning(torch.zeros(2, 3, 4), torch.ones(2, POOLED))
    found = network.look(latents, sigma, prompts)
    assert [a is b for a, b in zip(asked[0], (latents, sigma, prompts), strict=True)] == [True] * 3
    assert found.sigma is sigma and found.pooled is prompts.pooled_prompt_embeds


def test_prompts_without_a_pooled_vector_are_the_mean_of_their_normalised_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    # As in a language model's hidden states: one token, the same in all prompts, far larger than the others.
    embeds[:, 0] = torch.tensor([5e3, *[1.0] * 7], dtype=torch.float64)
    prompts = Conditioning(embeds, torch.zeros(2, 0))
    for row in range(2):
        normed = [(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in embeds[row]]
        torch.testing.assert_close(prompts.pooled[row], sum(normed) / 3, rtol=1e-12, atol=1e-12)
    assert Conditioning(embeds.bfloat16(), torch.zeros(2, 0)).pooled.dtype == torch.float32
    pooled = torch.ones(2, POOLED)
    assert Conditioning(embeds, pooled).pooled is pooled
