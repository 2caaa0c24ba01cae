"""Judging by the frozen base: its features, the gradient through it, its heads, and the penalties on them."""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.transformers import transformer_flux, transformer_flux2
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointError, checkpoint

from fluxduel.discriminator.interface import Conditioning
from fluxduel.tests.engine.base.test_base_model import base_with, inputs, relative_error, single_file
from fluxduel.tests.engine.conftest import CONTEXT, LENGTH, POOLED, make_data, with_phrase
from fluxduel.tests.engine.small import each_family, small_of
from fluxduel.tests.engine.stages.test_adversarial_stage import draw_with_both_ends
from fluxduel.training import draws
from fluxduel.training.base.base_model import (
    CHECKPOINTING,
    BaseReference,
    FluxBase,
    empty_transformer,
    load_base,
    read_transformer_config,
)
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux3 import FLUX3
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.judges import Judges, Shown

# The random transformer has blocks 0 and 1 with two streams, 2 and 3 with one.
ALL_TAPS = [(0,), (1,), (2,), (0, 1), (1, 2), (0, 3), (0, 1, 2, 3)]


def looked_at(base: FluxBase, dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Any]:
    """Arguments of ``features``, but for the taps."""
    given = inputs(dtype, small=small_of(base)) | changes
    given["latents"] = given.pop("x_t")
    return given


# Features


@each_family
@pytest.mark.parametrize("taps", ALL_TAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_the_blocks_own_in_a_pass_of_the_transformer(start, dtype, taps) -> None:
    """Image tokens alone, from hooks on the blocks of the whole transformer; the LoRA, switched off, has no part."""
    base = base_with(start, dtype=dtype)
    given = inputs(small=small_of(base))
    outputs: dict[int, Tensor] = {}

    def image_of(output: Any) -> Tensor:
        """Of both streams, or of both in one, where the prompt is in front, or alone."""
        return output[1] if isinstance(output, tuple) else output[:, -base.family.space.num_tokens(4, 6) :]

    handles = [
        block.register_forward_hook(lambda _, __, output, i=i: outputs.__setitem__(i, image_of(output)))
        for i, block in enumerate(base.blocks[-4:])
    ]
    with torch.no_grad():
        base.velocity(**given, adapter=False)
        for handle in handles:
            handle.remove()
        maps = base.features(**looked_at(base), taps=taps)
        without_lora = FluxBase(load_base(start.base, "cpu").transformer.to(dtype), start.base)
        same = without_lora.features(**looked_at(base), taps=taps)
    assert len(maps) == len(taps)
    # diffusers' FLUX.3 computes the level once a token, not once a sample: matrices of another size round otherwise.
    rounds = base.family is FLUX3 and dtype == torch.float32
    rounding = {"rtol": 1e-5, "atol": 1e-3} if rounds else {"rtol": 0, "atol": 0}
    for tap, got, unadapted in zip(taps, maps, same, strict=True):
        height, width = (side // base.family.space.patch for side in (4, 6))
        assert got.dtype == dtype and got.shape == (2, base.width, height, width)
        assert outputs[tap].shape == (2, height * width, base.width), "image tokens without the prompt's"
        for row in range(height):
            for column in range(width):
                place = row * width + column
                torch.testing.assert_close(got[:, :, row, column], outputs[tap][:, place], **rounding)
        assert torch.equal(got, unadapted)


@each_family
def test_features_depend_on_level_prompt_and_guidance(start) -> None:
    base = base_with(start)
    with torch.no_grad():
        given = inputs(small=small_of(base))
        (plain,) = base.features(**looked_at(base), taps=(3,))
        taken = {"pooled_prompt_embeds": base.pooled_dim, "guidance": base.guidance_embeds}
        for name in ("sigma", "prompt_embeds", *[name for name, there in taken.items() if there]):
            (other,) = base.features(**looked_at(base, **{name: given[name] * 0.5}), taps=(3,))
            assert not torch.allclose(plain, other, rtol=1e-3), name


@each_family
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("taps", [(0,), (0, 1), (2,)])
def test_blocks_behind_the_last_tap_never_run(start, taps, checkpointing) -> None:
    """Neither forward nor when blocks are recomputed; those up to it run once, and once more where recomputed."""
    base = base_with(start)
    base.checkpointing = checkpointing
    runs = [0] * 4
    for i, block in enumerate(base.blocks[-4:]):
        block.register_forward_pre_hook(lambda _, __, i=i: runs.__setitem__(i, runs[i] + 1))
    given = looked_at(base)
    given["latents"].requires_grad_()
    maps = base.features(**given, taps=taps)
    sum(m.square().sum() for m in maps).backward()
    assert runs == [1 + (checkpointing == "blocks") if i <= taps[-1] else 0 for i in range(4)]
    with torch.no_grad():
        base.features(**looked_at(base), taps=taps)
    assert runs == [2 + (checkpointing == "blocks") if i <= taps[-1] else 0 for i in range(4)]


def mixed_gradients(base: FluxBase, taps: tuple[int, ...]) -> dict[str, Tensor]:
    """Gradients of a loss on the LoRA's velocity and on the frozen features of the x0 that it implies, by LoRA and x_t.

    The features come last, so both passes are alive, in different states of the switch, when the backward pass starts.
    """
    given = inputs(torch.float64, small=small_of(base))
    x_t = given["x_t"].requires_grad_()
    velocity = base.velocity(**given)
    x0 = x_t - given["sigma"][:, None, None, None] * velocity
    level = torch.full((2,), 0.4, dtype=torch.float64)
    loss = seen_loss(base, 0.6 * x0 + 0.1, level, taps) + velocity.pow(3).mean()
    for weight in lora.parameters(base):
        weight.grad = None
    loss.backward()
    return {"x_t": x_t.grad} | {
        key: weight.grad for key, weight in zip(lora.snapshot(base), lora.parameters(base), strict=True)
    }


def seen_loss(base: FluxBase, latents: Tensor, level: Tensor, taps: tuple[int, ...]) -> Tensor:
    given = looked_at(base, torch.float64, x_t=latents, sigma=level)
    return sum(((i + 1) * m.pow(3)).mean() for i, m in enumerate(base.features(**given, taps=taps)))


@each_family
@pytest.mark.parametrize("taps", [(1,), (0, 3)])
def test_recomputed_features_give_the_plain_gradient(start, taps) -> None:
    base = base_with(start, dtype=torch.float64)
    base.checkpointing = "none"
    plain = mixed_gradients(base, taps)
    assert all(bool(g.any()) for g in plain.values())
    base.checkpointing = "blocks"
    assert relative_error(mixed_gradients(base, taps), plain) <= 1e-12


@each_family
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_the_lora_learns_through_its_velocity_alone(start, checkpointing) -> None:
    """Its gradient, with the features in one loss, is its velocity's pulled-back gradient at a base without a LoRA."""
    base, frozen = base_with(start, dtype=torch.float64), load_base(start.base, "cpu")
    base.checkpointing = checkpointing
    frozen.transformer.double()
    frozen.dtype = torch.float64
    got = mixed_gradients(base, (0, 3))

    given = inputs(torch.float64, small=small_of(base))
    given["x_t"].requires_grad_()
    velocity = base.velocity(**given)
    sigma = given["sigma"][:, None, None, None]
    z = (0.6 * (given["x_t"] - sigma * velocity) + 0.1).detach().requires_grad_()
    (dz,) = torch.autograd.grad(seen_loss(frozen, z, torch.full((2,), 0.4, dtype=torch.float64), (0, 3)), z)
    at_velocity = 3 * velocity.detach().square() / velocity.numel() - sigma * 0.6 * dz
    expected = torch.autograd.grad(velocity, [given["x_t"], *lora.parameters(base)], at_velocity)
    expected = dict(zip(got, expected, strict=True))
    expected["x_t"] = expected["x_t"] + 0.6 * dz
    assert relative_error(got, expected) <= 1e-12


@each_family
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_features_alone_give_the_lora_no_gradient(start, checkpointing) -> None:
    base = base_with(start)
    base.checkpointing = checkpointing
    given = looked_at(base)
    given["latents"].requires_grad_()
    sum(m.square().sum() for m in base.features(**given, taps=(0, 3))).backward()
    assert bool(given["latents"].grad.any())
    assert all(weight.grad is None for weight in base.transformer.parameters())


@each_family
def test_features_with_a_switch_that_is_not_bound_are_caught(start) -> None:
    class NotBound(FluxBase):
        def _checkpoint(self, block: torch.nn.Module, *args: Any) -> Any:
            return checkpoint(block, *args, use_reentrant=False)

    base = base_with(start, NotBound, dtype=torch.float64)
    base.checkpointing = "blocks"
    with pytest.raises(CheckpointError):
        mixed_gradients(base, (0, 3))


# Heads


@pytest.fixture(scope="module")
def flux_dev(tmp_path_factory) -> FluxBase:
    """FLUX.1-dev in names and shapes alone, on the meta device."""
    config = read_transformer_config(str(single_file(tmp_path_factory.mktemp("dev"))))
    return FluxBase(empty_transformer(config), BaseReference("flux1-dev.safetensors"))


def test_the_judge_of_flux_dev_is_small_and_holds_nothing_of_it(flux_dev) -> None:
    for endpoints in (("x0",), ("x0", "jump")):
        judges = Judges(DiscriminatorConfig(), flux_dev, 1.0, endpoints, 0)
        heads = [head for network in judges.networks.values() for head in network.heads]
        assert len(heads) == 4 * len(endpoints)
        for head in heads:
            assert 1.2e6 < sum(p.numel() for p in head.parameters()) < 2.5e6
        held = [*judges.parameters(), *judges.buffers()]
        megabytes = sum(t.numel() * t.element_size() for t in held) / 1e6
        print(f"{len(heads)} heads of {sum(p.numel() for p in heads[0].parameters()):,} parameters, {megabytes:.1f} MB")
        assert megabytes <= 200
        assert {p.dtype for p in judges.parameters()} == {torch.float32}
        assert not {id(t) for t in held} & {id(p) for p in flux_dev.transformer.parameters()}


def test_taps_of_flux_dev() -> None:
    """Its own: double blocks 4, 11 and 18, and a single block such that half of the depth does not run."""
    assert FLUX1.tap_blocks("", 19, 38)[:3] == (4, 11, 18)
    assert FLUX1.tap_blocks("", 19, 38)[3:] in ((27,), (28,))
    assert FLUX1.tap_blocks("s9, d4,d11, d18,d4", 19, 38) == (4, 11, 18, 28)


@pytest.mark.parametrize(("doubles", "singles"), [(2, 2), (1, 0), (0, 3), (3, 6), (19, 38)])
def test_any_depth_has_taps_of_its_own(doubles, singles) -> None:
    taps = FLUX1.tap_blocks("", doubles, singles)
    assert taps == tuple(sorted(set(taps))) and 0 <= taps[0] and taps[-1] < doubles + singles
    assert taps[-1] < max(1, math.ceil((doubles + singles) / 2))


@pytest.mark.parametrize("taps", ["d2", "s2", "x1", "d", "d-1", "d0,", "0"])
def test_a_tap_that_is_no_block_is_named(taps) -> None:
    with pytest.raises(ValueError, match=rf"{taps.split(',')[-1]!r} is no block .* d0 to d1 and s0 to s1"):
        FLUX1.tap_blocks(taps, 2, 2)


def test_the_configured_taps_and_seed_make_the_judge(reference) -> None:
    base = load_base(reference, "cpu")
    weights = {}
    for seed in (0, 0, 1):
        judges = Judges(DiscriminatorConfig(taps="d1,s1", width=8, seed=seed), base, 1.0, ("x0",), 0)
        assert len(judges.networks["x0"].heads) == 2
        weights.setdefault(seed, []).append(torch.cat([p.flatten() for p in judges.parameters()]))
    assert torch.equal(*weights[0]) and not torch.equal(weights[0][0], weights[1][0])
    with pytest.raises(ValueError, match="is no block of this base"):
        Judges(DiscriminatorConfig(taps="d2"), base, 1.0, ("x0",), 0)


@each_family
def test_another_prompt_has_another_verdict_by_what_the_heads_are_told_alone(start) -> None:
    """The trunk's features are those of one prompt for both, so that the difference is the heads' own."""
    base = base_with(start)
    judges = Judges(DiscriminatorConfig(width=8), base, 1.0, ("x0",), 0)
    generator = torch.Generator().manual_seed(6)
    for weight in judges.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    given = inputs(small=small_of(base))
    prompts = Conditioning(given["prompt_embeds"], given["pooled_prompt_embeds"])
    # Each sample's prompt is the other's.
    exchanged = prompts.rows([1, 0])
    with torch.no_grad():
        seen = judges.look(given["x_t"], given["sigma"], prompts)
        told = seen._replace(pooled=judges.look(given["x_t"], given["sigma"], exchanged).pooled)
        one, two = (judges.networks["x0"].judge(each) for each in (seen, told))
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(one, two, strict=True))


# The generator's gradient


def wide_rotary(x: Tensor, freqs: tuple[Tensor, Tensor], sequence_dim: int) -> Tensor:
    """diffusers' rotation of pairs without its step through fp32, which would hide small differences."""
    assert sequence_dim == 1
    cos, sin = (f[None, :, None, :].to(x) for f in freqs)
    even, odd = x[..., 0::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin


def wide_attention(_: Any, attn: torch.nn.Module, x: Tensor, _mask: None, rotary: Any) -> Tensor:
    """FLUX.3's attention without its step through fp32, in which it norms and rotates."""
    query, key, value = (to(x).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v))
    query, key = (
        wide_rotary(norm(x), rotary, sequence_dim=1) for norm, x in ((attn.norm_q, query), (attn.norm_k, key))
    )
    heads = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
    return attn.to_out[0](heads.transpose(1, 2).flatten(2))


def attend_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transformer_flux, transformer_flux2):
        monkeypatch.setattr(module, "apply_rotary_emb", wide_rotary)
    if hasattr(diffusers, FLUX3.class_name):
        flux3 = importlib.import_module("diffusers.models.transformers.transformer_flux3")
        monkeypatch.setattr(flux3.Flux3AttnProcessor, "__call__", wide_attention)


def wide(data: RealLatents) -> RealLatents:
    """The same data in float64."""

    def prompts(some: Any) -> Any:
        return tuple(
            dataclasses.replace(
                p, prompt_embeds=p.prompt_embeds.double(), pooled_prompt_embeds=p.pooled_prompt_embeds.double()
            )
            for p in some
        )

    samples = tuple(dataclasses.replace(s, mean=s.mean.double(), std=s.std.double()) for s in data.samples)
    kinds = ("few_step_prompts", "prompts", "practice_prompts", "outside_prompts")
    widened = {kind: prompts(getattr(data, kind)) for kind in kinds}
    return dataclasses.replace(data, samples=samples, empty_prompt=prompts([data.empty_prompt])[0], **widened)


def wide_stage(start, judge: DiscriminatorConfig, **changes: Any) -> AdversarialStage:
    """A stage that computes in float64 throughout, with heads that have something to say."""
    config = AdversarialStageConfig(
        batch_size=2, max_grad_norm=0.0, ema_decay=0.0, watch=False, gradient_checkpointing=True, **changes
    )
    stage = AdversarialStage(start, wide(with_phrase(make_data(small=small_of(start)))), judge, config, device="cpu")
    stage.base.transformer.double()
    stage.base.dtype = torch.float64
    stage.judges.double()
    generator = torch.Generator().manual_seed(5)
    for weight in stage.judges.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator).double()
    return stage


@each_family
@pytest.mark.parametrize("target", ["x0", "jump", "two_samplers"])
@pytest.mark.parametrize(
    ("architecture", "loss", "objective"),
    [("flux_features", "relativistic", "pure"), ("flux_features", "bce", "hybrid"), ("patch_cnn", "hinge", "hybrid")],
)
def test_the_generators_gradient_is_the_losss_slope(start, monkeypatch, target, architecture, loss, objective) -> None:
    """Central differences of the loss along random directions of all LoRA weights, with checkpointing on."""
    attend_exactly(monkeypatch)
    judge = DiscriminatorConfig(
        architecture=architecture, loss=loss, width=8, depth=2, augmentation="fixed", augmentation_probability=0.5
    )
    stage = wide_stage(start, judge, target=target, objective=objective, adversarial_weight=3.0)
    weights, draw, step = lora.parameters(stage.base), draw_with_both_ends(stage), 1e-5
    assert stage.base.checkpointing == "blocks" and all(w.dtype == torch.float64 for w in weights)
    kept: list[Tensor] = []
    monkeypatch.setattr(stage, "apply", lambda *_: kept.extend(w.grad.clone() for w in weights) or 0.0)
    values = stage.update_both(draw, 0, teach=False)
    if objective == "pure":
        assert values["total_loss"] == 3.0 * values["adversarial_loss"]

    def loss_at(shift: list[Tensor], amount: float) -> float:
        for weight, direction in zip(weights, shift, strict=True):
            weight.data += amount * direction
        # The loss as it is logged; the gradient that comes with it is dropped.
        value = stage.update_both(draw, 0, teach=False)["total_loss"]
        for weight, direction in zip(weights, shift, strict=True):
            weight.grad = None
            weight.data -= amount * direction
        return value

    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        shift = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
        norm = math.sqrt(sum(float(d.square().sum()) for d in shift))
        shift = [d / norm for d in shift]
        slope = sum(float((g * d).sum()) for g, d in zip(kept[: len(weights)], shift, strict=True))
        differences = (loss_at(shift, step) - loss_at(shift, -step)) / (2 * step)
        size = math.sqrt(sum(float(g.square().sum()) for g in kept[: len(weights)]))
        assert abs(slope) > 1e-4 * size, "a direction along which nothing changes shows nothing"
        assert differences == pytest.approx(slope, rel=1e-5, abs=1e-6 * size)


# Penalties on the heads


def cheap_judges(count: int, deviation: float = 1.0, **changes: Any) -> tuple[Judges, Shown, list[Tensor]]:
    """Judges with weights that say something over a trunk of one random layer; latents; and what each look was at."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    class Base:
        device, width, pooled_dim, latent_channels = torch.device("cpu"), 6, POOLED, 16
        transformer = SimpleNamespace(config={"num_layers": 2, "num_single_layers": 0})
        family = FLUX1

        def features(self, latents: Tensor, sigma: Tensor, *_: Any) -> list[Tensor]:
            looks.append(latents)
            x = F.avg_pool2d(latents, 2)
            return [torch.einsum("oc,bchw->bohw", m, x).tanh() + sigma[:, None, None, None] for m in mixing]

    looks: list[Tensor] = []
    mixing = [draw(6, 16), draw(6, 16)]
    config = DiscriminatorConfig(**{"taps": "d0,d1", "width": 8, "depth": 1, "centring": 0.0} | changes)
    judges = Judges(config, Base(), 1.0, ("x0", "jump"), 3, deviation).double()
    for weight in judges.parameters():
        weight.data += 0.3 * draw(*weight.shape)
    few = [row for row in range(count) if row % 3]
    rows = {"x0": few, "jump": [row for row in range(count) if row not in few]}
    real, fake = draw(count, 16, 4, 4), draw(count, 16, 4, 4)
    level = torch.rand(count, generator=generator, dtype=torch.float64)
    prompts = Conditioning(draw(count, LENGTH, CONTEXT), draw(count, POOLED))
    kinds = {name: kept for name, kept in rows.items() if kept}
    shown = Shown(real, fake, level, prompts, prompts, None, None, kinds, 0, tuple(range(count)))
    return judges, shown, looks


def penalty(judges: Judges, shown: Shown) -> Tensor:
    with torch.no_grad():
        seen = [judges.look(side, shown.level, shown.conditioning) for side in (shown.real, shown.fake)]
    return judges.loss(shown, *seen)[1]


@pytest.mark.parametrize(("r1", "r2", "name"), [(2.0, 0.0, "real step"), (0.0, 3.0, "fake step")])
def test_the_approximate_slope_by_hand(r1, r2, name) -> None:
    """Each sample by its own judge: the mean over maps and places of the squared change a deviation of the latents."""
    judges, shown, _ = cheap_judges(5, 0.6, r1=r1, r2=r2, penalty_share=1.0, penalty_sigma=0.05)
    got = penalty(judges, shown)
    latents = shown.real if r1 else shown.fake
    slopes = []
    for row in range(5):
        network = judges.networks["x0" if row % 3 else "jump"]
        noise = draws.normals(3, 0, [row], name, (16, 4, 4)).double()
        one = slice(row, row + 1)
        prompts = Conditioning(shown.conditioning.prompt_embeds[one], shown.conditioning.pooled_prompt_embeds[one])
        at = network(latents[one], shown.level[one], prompts)
        beside = network(latents[one] + 0.05 * 0.6 * noise, shown.level[one], prompts)
        slopes.append(torch.stack([((b - a) / 0.05).square().mean() for a, b in zip(at, beside, strict=True)]).mean())
    assert got.item() == pytest.approx((r1 + r2) * torch.stack(slopes).mean().item(), rel=1e-12)
    expected = torch.autograd.grad((r1 + r2) * torch.stack(slopes).mean(), list(judges.parameters()), allow_unused=True)
    for weight, gradient in zip(judges.parameters(), expected, strict=True):
        (own,) = torch.autograd.grad(got, weight, retain_graph=True, allow_unused=True)
        assert (own is None) == (gradient is None)
        if own is not None:
            torch.testing.assert_close(own, gradient, rtol=1e-9, atol=1e-12)


def test_only_chosen_samples_cost_a_look() -> None:
    judges, shown, looks = cheap_judges(6, r1=1.0, r2=1.0, penalty_share=0.25)
    costs = []
    for draw in range(60):
        chosen = int((draws.uniforms(3, draw, range(6), "penalty") < 0.25).sum())
        looks.clear()
        value = penalty(judges, shown._replace(draw=draw))
        assert [len(latents) for latents in looks] == [6, 6] + [chosen, chosen] * (chosen > 0)
        assert (value.item() > 0) == (chosen > 0)
        costs.append(chosen)
    assert 0 in costs and sum(costs) / 360 == pytest.approx(0.25, abs=0.09)


def test_a_share_of_the_samples_gives_the_whole_penalty_on_average() -> None:
    """Per draw the two differ; their mean difference over many draws is 0 within its standard error."""
    whole, shown, _ = cheap_judges(4, r1=1.0, r2=1.0, penalty_share=1.0)
    part, _, _ = cheap_judges(4, r1=1.0, r2=1.0, penalty_share=0.25)
    with torch.no_grad():
        pairs = [
            [penalty(judges, shown._replace(draw=draw)).item() for judges in (part, whole)] for draw in range(400)
        ]
    values = torch.tensor(pairs, dtype=torch.float64)
    difference = values[:, 0] - values[:, 1]
    error = difference.std().item() / math.sqrt(len(values))
    mean = values[:, 1].mean().item()
    assert error < 0.1 * mean, "too few draws to tell"
    assert abs(difference.mean().item()) < 3.5 * error


def by_brute_force(judges: Judges, latents: Tensor, shown: Shown) -> float:
    """Mean over samples, maps and places of the squared gradient of each logit by the latents, one after the other."""
    values = []
    for row in range(len(latents)):
        network = judges.networks["x0" if row % 3 else "jump"]
        x = latents[row : row + 1].clone().requires_grad_()
        maps = []
        for logits in network(x, shown.level[row : row + 1]):
            squares = [torch.autograd.grad(one, x, retain_graph=True)[0].square().sum() for one in logits.flatten()]
            maps.append(torch.stack(squares).mean())
        values.append(torch.stack(maps).mean())
    return torch.stack(values).mean().item()


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "patch_cnn"])
def test_the_exact_slopes_are_those_of_brute_force(architecture) -> None:
    """A single verdict a picture at once; a map of them, whose estimate has random signs, on the mean over draws."""
    judges, shown, _ = cheap_judges(3, 1.7, architecture=architecture, r1=1.0, r2=0.5, penalty_share=0.0)
    expected = by_brute_force(judges, shown.real, shown) + 0.5 * by_brute_force(judges, shown.fake, shown)
    expected *= 1.7**2  # a slope is a change for each deviation of the latents
    count = 1 if architecture == "mlp" else 150
    values = torch.tensor([penalty(judges, shown._replace(draw=draw)).item() for draw in range(count)]).double()
    if architecture == "mlp":
        assert values.item() == pytest.approx(expected, rel=1e-6)
        return
    error = values.std().item() / math.sqrt(count)
    assert error < 0.1 * expected and abs(values.mean().item() - expected) < 3.5 * error


def test_a_base_that_is_missing_a_prompt_is_named(random_transformer: Path) -> None:
    base = load_base(BaseReference(str(random_transformer), "fp32"), "cpu")
    judges = Judges(DiscriminatorConfig(width=8), base, 1.0, ("x0",), 0)
    with pytest.raises(ValueError, match="conditioning is missing"):
        judges.networks["x0"](torch.zeros(1, 16, 4, 4), torch.tensor([0.5]))
