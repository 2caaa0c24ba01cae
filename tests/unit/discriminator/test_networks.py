"""The discriminators: shapes, seeding, conditioning, independence of samples, spectral normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.utils import parametrize

from fluxduel.discriminator import losses
from fluxduel.discriminator.interface import Conditioning, Seen, concatenate
from fluxduel.discriminator.networks import FiLM, LatentCNN, build

ARCHITECTURES = ("cnn", "mlp", "patch_cnn")
MAPS = {"cnn": 1, "mlp": 1, "patch_cnn": 3}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _small(architecture: str, spectral_norm: bool = False, depth: int = 3, seed: int = 0) -> torch.nn.Module:
    return build(architecture, width=8, depth=depth, spectral_norm=spectral_norm, seed=seed)


def _trained_a_little(architecture: str) -> torch.nn.Module:
    """FiLM starts as the identity, which would hide mistakes behind it: so let every weight move."""
    network = _small(architecture).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * _normal(*parameter.shape, seed=index, dtype=torch.float64))
    return network


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("size", [(4, 4), (6, 8), (16, 16), (4, 32), (2, 6), (5, 7), (1, 1)])
def test_every_size_gives_finite_logits_near_zero(architecture: str, depth: int, size: tuple[int, int]) -> None:
    network = _small(architecture, depth=depth)
    maps = network(_normal(3, 16, *size), torch.tensor([0.0, 0.5, 1.0]))
    assert len(maps) == MAPS[architecture]
    for logits in maps:
        assert logits.shape[:2] == (3, 1)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert 0 < logits.abs().max() < 1
        assert min(logits.shape[2:]) >= 1


@pytest.mark.parametrize(
    ("size", "depth", "patches"),
    [((64, 48), 3, (8, 6)), ((16, 16), 3, (2, 2)), ((16, 16), 6, (2, 2)), ((4, 4), 6, (2, 2)), ((4, 32), 3, (2, 4))],
)
def test_the_cnn_judges_patches(size: tuple[int, int], depth: int, patches: tuple[int, int]) -> None:
    (logits,) = _small("cnn", depth=depth)(_normal(1, 16, *size), torch.full((1,), 0.5))
    assert logits.shape == (1, 1, *patches)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_cnns_field_of_view_is_as_documented(depth: int) -> None:
    latents = _normal(1, 16, 64, 64).requires_grad_(True)
    (logits,) = _small("cnn", depth=depth)(latents, torch.full((1,), 0.5))
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], latents)
    rows = (gradient[0].abs().sum((0, 2)) > 0).nonzero()
    assert rows.max() - rows.min() + 1 == 2 ** (depth + 1) + 1


@pytest.mark.parametrize(
    ("size", "patches"),
    [
        ((4, 4), [(2, 2), (2, 2), (2, 2)]),
        ((8, 8), [(2, 2), (2, 2), (2, 2)]),
        ((6, 10), [(2, 2), (2, 2), (2, 2)]),
        ((7, 33), [(2, 5), (2, 3), (2, 2)]),
        ((64, 64), [(8, 8), (4, 4), (2, 2)]),
        ((64, 128), [(8, 16), (4, 8), (2, 4)]),
    ],
)
def test_the_patch_cnn_judges_patches_at_three_scales(
    size: tuple[int, int], patches: list[tuple[int, int]]
) -> None:
    maps = _small("patch_cnn", depth=3)(_normal(2, 16, *size), torch.tensor([0.2, 0.8]))
    assert [tuple(m.shape) for m in maps] == [(2, 1, *p) for p in patches]


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize(
    ("size", "coarsest"), [((32, 48), (8, 12)), ((8, 8), (2, 2)), ((4, 4), (2, 2)), ((4, 16), (2, 4)), ((2, 8), (2, 2))]
)
def test_each_tower_of_the_patch_cnn_sees_the_mean_over_its_places(
    size: tuple[int, int], coarsest: tuple[int, int], scale: int
) -> None:
    """A side is halved at each scale, but never below 2."""
    network = _trained_a_little("patch_cnn")
    latents, sigma = _normal(1, 16, *size, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    down, right = (min(2**scale, side // last) for side, last in zip(size, coarsest, strict=True))
    averaged = latents.unflatten(3, (-1, right)).mean(4).unflatten(2, (-1, down)).mean(3)
    (expected,) = network.towers[scale](averaged, sigma)
    torch.testing.assert_close(network(latents, sigma)[scale], expected, rtol=1e-10, atol=1e-12)
    other = network.towers[(scale + 1) % 3](averaged, sigma)[0]
    assert not torch.allclose(other, expected, rtol=1e-3)


@pytest.mark.parametrize("size", [(7, 9), (5, 5), (4, 4), (1, 1)])
def test_every_latent_of_an_odd_side_counts_at_every_scale(size: tuple[int, int]) -> None:
    latents = _normal(1, 16, *size).requires_grad_(True)
    for logits in _small("patch_cnn", depth=1)(latents, torch.full((1,), 0.5)):
        (gradient,) = torch.autograd.grad(logits.sum(), latents, retain_graph=True)
        assert gradient.abs().sum(1).min() > 0


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (16, 16), (62, 34)])
def test_the_mlp_judges_the_picture(size: tuple[int, int]) -> None:
    network = _small("mlp")
    colour = _normal(1, 16, 1, 1)
    (logits,) = network(colour.expand(1, 16, *size), torch.full((1,), 0.5))
    (reference,) = network(colour.expand(1, 16, 8, 8), torch.full((1,), 0.5))
    assert logits.shape == (1, 1, 1, 1)
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-6)


def test_the_mlp_knows_where_things_are() -> None:
    network = _small("mlp")
    latents = torch.zeros(1, 16, 8, 12)
    latents[..., :6] = 1.0
    sigma = torch.full((1,), 0.5)
    assert not torch.allclose(network(latents, sigma)[0], network(latents.flip(3), sigma)[0], rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_flat_picture_has_a_finite_gradient(architecture: str) -> None:
    latents = torch.zeros(1, 16, 4, 4, requires_grad=True)
    network = _small(architecture)
    penalty = losses.gradient_penalty(network, latents, latents, torch.zeros(1), torch.zeros(1))
    penalty.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_alone_decides_the_weights(architecture: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _small(architecture, spectral_norm=True, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = _small(architecture, spectral_norm=True, seed=7).state_dict()
    other = _small(architecture, spectral_norm=True, seed=2**63 - 1).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    keys = [key for key in first if key.endswith("head.parametrizations.weight.original")]
    assert len(keys) == MAPS[architecture]
    assert not any(torch.equal(first[key], other[key]) for key in keys)
    # Towers that began alike would learn alike.
    assert len({first[key].flatten()[0].item() for key in keys}) == len(keys)


def test_another_default_device_does_not_matter() -> None:
    expected = _small("cnn").state_dict()
    with torch.device("meta"):
        network = _small("cnn")
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_and_logits_stay_in_fp32(architecture: str) -> None:
    network = _small(architecture)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    latents = _normal(2, 16, 4, 4).bfloat16().requires_grad_(True)
    maps = network(latents, torch.rand(2).bfloat16())
    assert {logits.dtype for logits in maps} == {torch.float32}
    sum(logits.sum() for logits in maps).backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_kind_of_weight_starts_as_documented(architecture: str) -> None:
    network = build(architecture, width=64, depth=2, spectral_norm=False, seed=0)
    assert all(not m.bias.any() for m in network.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    assert all(not m.layer.weight.any() for m in network.modules() if isinstance(m, FiLM))
    towers = [m for m in network.modules() if isinstance(m, LatentCNN)]
    for layer in [tower.stages[0] for tower in towers] or [network.layers[0]]:
        assert layer.weight.std().item() == pytest.approx((2 / 1.04 / layer.weight[0].numel()) ** 0.5, rel=0.03)
    # The noise is averaged over 2x2 places from map to map.
    for scale, logits in enumerate(network(_normal(64, 16, 16, 16), torch.rand(64))):
        assert 0.005 < logits.std().item() * 2**scale < 0.2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_samples_do_not_influence_each_other(architecture: str) -> None:
    network = _trained_a_little(architecture)
    latents = _normal(2, 16, 8, 8, dtype=torch.float64).requires_grad_(True)
    sigma = torch.tensor([0.2, 0.8], dtype=torch.float64, requires_grad=True)
    changed = torch.cat([latents[:1], 100 * _normal(1, 16, 8, 8, seed=5, dtype=torch.float64)])
    for logits, again in zip(network(latents, sigma), network(changed, sigma), strict=True):
        by_latents, by_sigma = torch.autograd.grad(logits[0].sum(), (latents, sigma), retain_graph=True)
        assert by_latents[0].abs().sum() > 0 and by_sigma[0] != 0
        assert not by_latents[1].any() and by_sigma[1] == 0
        torch.testing.assert_close(again[0], logits[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_have_second_derivatives(architecture: str) -> None:
    """The gradient by the latents is itself differentiable: by finite differences in float64."""
    network = _trained_a_little(architecture)
    latents = _normal(2, 16, 4, 6, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.8], dtype=torch.float64)
    weight = next(p for name, p in network.named_parameters() if name.endswith(("stem.weight", "projection.weight")))
    direction = _normal(*weight.shape, seed=3, dtype=torch.float64)
    direction *= 1e-6 / direction.norm()

    def energy() -> torch.Tensor:
        x = latents.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(sum(m.sum() for m in network(x, sigma)), x, create_graph=True)
        return gradient.square().sum()

    (found,) = torch.autograd.grad(energy(), weight)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * direction)
        sides.append(energy().item())
        with torch.no_grad():
            weight.sub_(sign * direction)
    assert (found * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / 2, rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sigma_matters_once_trained_and_not_before(architecture: str) -> None:
    """At low sigma the reals are the bright ones, at high sigma the dark ones: only the conditioning can tell."""
    network = _small(architecture, depth=2)
    latents = _normal(2, 16, 4, 4)
    for low, high in zip(network(latents, torch.zeros(2)), network(latents, torch.ones(2)), strict=True):
        assert torch.equal(low, high)

    draws = torch.Generator().manual_seed(0)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sigma = torch.rand(count, generator=draws)
        brightness = torch.where(sigma < 0.5, 0.5, -0.5)[:, None, None, None]
        noise = torch.randn(2, count, 16, 4, 4, generator=draws)
        return noise[0] + brightness, noise[1] - brightness, sigma

    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.5, 0.99))
    for _ in range(100):
        real, fake, sigma = batch(32)
        loss = losses.discriminator_loss("bce", network(real, sigma), network(fake, sigma))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        real, fake, sigma = batch(512)
        right = losses.accuracy("bce", network(real, sigma), network(fake, sigma))
        wrong = losses.accuracy("bce", network(real, 1 - sigma), network(fake, 1 - sigma))
    assert min(right) > 0.85
    assert max(wrong) < 0.15


def _normalised(network: torch.nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if parametrize.is_parametrized(module)]


def test_spectral_norm_bounds_every_layer_that_latents_pass() -> None:
    assert _normalised(_small("cnn")) == []
    cnn, mlp = _small("cnn", spectral_norm=True), _small("mlp", spectral_norm=True)
    assert _normalised(cnn) == ["stem", "stages.0", "stages.1", "stages.2", "head"]
    assert _normalised(mlp) == ["projection", "layers.0", "layers.1", "layers.2", "head"]
    patch_cnn = _small("patch_cnn", spectral_norm=True)
    assert _normalised(patch_cnn) == [f"towers.{tower}.{name}" for tower in range(3) for name in _normalised(cnn)]
    for network in (cnn, mlp, patch_cnn):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(50)
        for name in _normalised(network):
            weight = network.get_submodule(name).weight.flatten(1)
            # The power iteration approaches the norm from below.
            assert 1 - 1e-5 < torch.linalg.matrix_norm(weight, 2) < 1.05


def test_spectral_norm_is_a_function_of_the_weights_alone() -> None:
    network = _small("cnn", spectral_norm=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    latents, sigma = _normal(2, 16, 8, 8), torch.tensor([0.2, 0.8])
    first = network(latents, sigma)[0]
    for _ in range(5):
        network(latents, sigma)
    assert torch.equal(network(latents, sigma)[0], first)
    assert torch.equal(network.eval()(latents, sigma)[0], first)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    loaded = _small("cnn", spectral_norm=True, seed=9)
    loaded.load_state_dict(before)
    assert torch.equal(loaded(latents, sigma)[0], first)


def test_spectral_norms_gradient_is_that_of_the_exact_norm() -> None:
    network = _small("mlp", spectral_norm=True).double()
    layer = network.layers[1]
    original = layer.parametrizations.weight.original
    # A wide gap below the largest singular value, so that the iteration has converged.
    with torch.no_grad():
        left, values, right = torch.linalg.svd(original, full_matrices=False)
        original.copy_(left @ torch.diag(values * torch.tensor([2.0] + [1.0] * 15).double()) @ right)
    direction = _normal(*original.shape, dtype=torch.float64)
    (found,) = torch.autograd.grad((layer.weight * direction).sum(), original)
    exact = original.detach().clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((exact / torch.linalg.matrix_norm(exact, 2) * direction).sum(), exact)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_wrong_inputs_are_named() -> None:
    for architecture in ARCHITECTURES:
        network = _small(architecture)
        with pytest.raises(ValueError, match=r"16, height, width\), got \(2, 4, 8, 8\)"):
            network(torch.zeros(2, 4, 8, 8), torch.zeros(2))
        with pytest.raises(ValueError, match=r"got \(16, 8, 8\)"):
            network(torch.zeros(16, 8, 8), torch.zeros(16))
        with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
            network(torch.zeros(2, 16, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="'transformer'; choose from patch_cnn, cnn, mlp"):
        build("transformer", width=8, depth=3, spectral_norm=False, seed=0)
    with pytest.raises(ValueError, match="depth=0"):
        build("cnn", width=8, depth=0, spectral_norm=False, seed=0)
    with pytest.raises(ValueError, match="width=-4"):
        build("cnn", width=-4, depth=1, spectral_norm=False, seed=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_width_of_zero_is_64(architecture: str) -> None:
    expected, found = (
        build(architecture, width=w, depth=1, spectral_norm=False, seed=0).state_dict() for w in (64, 0)
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_other_latents_than_flux_can_be_asked_for() -> None:
    network = build("cnn", width=8, depth=1, spectral_norm=False, seed=0, channels=4)
    assert network(torch.zeros(1, 4, 8, 8), torch.zeros(1))[0].shape == (1, 1, 4, 4)


# --- looking and judging


def _seen(count: int, seed: int = 0, pooled: bool = True) -> Seen:
    """Two features of unlike shapes, as a network with a trunk gives."""
    features = _normal(count, 3, 2, 2, seed=seed), _normal(count, 5, seed=seed + 1)
    return Seen(features, _normal(count, seed=seed + 2), _normal(count, 4, seed=seed + 3) if pooled else None)


def _parts(seen: Seen) -> list[torch.Tensor]:
    return [*seen.features, seen.sigma, *([] if seen.pooled is None else [seen.pooled])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_judging_what_was_seen_is_the_forward_pass(architecture: str) -> None:
    network = _trained_a_little(architecture)
    latents = _normal(3, 16, 8, 8).requires_grad_(True)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    conditioning = Conditioning(_normal(3, 7, 6), _normal(3, 4))
    expected = network(latents, sigma)
    seen = network.look(latents, sigma, conditioning)
    assert seen.pooled is None
    for one, other, third in zip(
        expected, network.judge(seen), network(latents, sigma, conditioning), strict=True
    ):
        assert torch.equal(one, other) and torch.equal(one, third)
    # One look serves both losses: the generator's reaches the latents, the discriminator's does not.
    (by_latents,) = torch.autograd.grad(sum(m.sum() for m in network.judge(seen)), latents)
    assert by_latents.any()
    judged = network.judge(seen.detach())
    assert all(m.requires_grad for m in judged)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(sum(m.sum() for m in judged), latents)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_was_seen_can_be_split_and_joined(architecture: str) -> None:
    network = _trained_a_little(architecture)
    latents, sigma = _normal(4, 16, 8, 6, dtype=torch.float64), torch.linspace(0, 1, 4).double()
    seen = network.look(latents, sigma)
    joined = network.judge(concatenate(seen.rows([3]), seen.rows(slice(0, 2))))
    for whole, part in zip(network.judge(seen), joined, strict=True):
        torch.testing.assert_close(part, whole[[3, 0, 1]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    "index", [[2, 0], slice(0, 3, 2), torch.tensor([3, 3, 1]), torch.tensor([True, False, False, True]), []]
)
def test_rows_selects_samples_in_every_part(index: torch.Tensor | list[int] | slice, pooled: bool) -> None:
    numbers = torch.arange(4)[index]
    seen = _seen(4, pooled=pooled)
    found = seen.rows(index)
    assert (found.pooled is None) == (not pooled)
    for before, after in zip(_parts(seen), _parts(found), strict=True):
        assert after.shape == (len(numbers), *before.shape[1:])
        assert all(torch.equal(a, before[n]) for a, n in zip(after, numbers, strict=True))
    conditioning = Conditioning(_normal(4, 3, 2), _normal(4, 5))
    assert torch.equal(conditioning.rows(index).prompt_embeds, conditioning.prompt_embeds[numbers])
    assert torch.equal(conditioning.rows(index).pooled_prompt_embeds, conditioning.pooled_prompt_embeds[numbers])


@pytest.mark.parametrize("pooled", [True, False])
def test_concatenate_undoes_rows(pooled: bool) -> None:
    seen = _seen(5, pooled=pooled)
    for found in (concatenate(seen.rows(slice(0, 2)), seen.rows([2]), seen.rows(slice(3, 5))), concatenate(seen)):
        assert (found.pooled is None) == (not pooled)
        assert all(torch.equal(a, b) for a, b in zip(_parts(found), _parts(seen), strict=True))


def test_concatenate_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate()
    with pytest.raises(ValueError, match="1 of 2 have pooled prompts"):
        concatenate(_seen(1), _seen(1, pooled=False))
    with pytest.raises(ValueError, match=r"features of each, got \[2, 1\]"):
        concatenate(_seen(1), _seen(1)._replace(features=(torch.zeros(1, 3),)))


def test_detach_cuts_every_part() -> None:
    leaf = torch.ones((), requires_grad=True)
    seen = _seen(2)
    attached = Seen(tuple(f * leaf for f in seen.features), seen.sigma * leaf, seen.pooled * leaf)
    assert all(part.requires_grad for part in _parts(attached))
    assert not any(part.requires_grad for part in _parts(attached.detach()))
    assert all(torch.equal(a, b) for a, b in zip(_parts(attached.detach()), _parts(seen), strict=True))
    assert _seen(2, pooled=False).detach().pooled is None
