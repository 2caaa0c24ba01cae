"""Stage 2: what an iteration moves, accumulation, targets, schedules, its gradient against a derivation of its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.nn import functional as F

from fluxduel.discriminator.interface import Conditioning
from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.small import each_family
from fluxduel.tests.engine.stages.test_diffusion_stage import relative
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.data.batches import in_few_step_mode
from fluxduel.training.data.data_error import DataError
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.train_stages import train_adversarial_stage
from fluxduel.training.stages import overfitting
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.stage import StageFailure

OBJECTIVES = {
    "hybrid": {},
    "annealed": {"adversarial_schedule": "cosine", "adversarial_weight_end": 0.1, "diffusion_schedule": "linear"},
    "pure": {"objective": "pure"},
}
CONFIG = AdversarialStageConfig(
    steps=2,
    learning_rate=1e-3,
    batch_size=2,
    gradient_checkpointing=False,
    discriminator_warmup=0,
    discriminator_ratio="fixed",
    validate_every=0,
    max_grad_norm=0.0,
    ema_decay=0.0,
    watch=False,
)
JUDGE = DiscriminatorConfig(width=8, depth=2, max_grad_norm=0.0, augmentation="off")


@pytest.fixture
def data(family):
    return with_phrase(make_data(small=family))


def make(start, data, judge=None, **changes) -> AdversarialStage:
    judge = dataclasses.replace(JUDGE, **(judge or {}))
    return AdversarialStage(start, data, judge, dataclasses.replace(CONFIG, **changes), device=DEVICE)


def state(stage: AdversarialStage) -> dict[str, dict[str, torch.Tensor]]:
    """Copies of all three sets of weights: the frozen base, the LoRA, the discriminator."""
    adapter = {id(p) for p in lora.parameters(stage.base)}
    base = {k: p.detach().clone() for k, p in stage.base.transformer.named_parameters() if id(p) not in adapter}
    judge = {k: v.detach().clone() for k, v in stage.judges.named_parameters()}
    return {"base": base, "lora": lora.snapshot(stage.base), "discriminator": judge}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


def keep_gradients(optimiser, name: str, seen: dict[str, torch.Tensor]) -> None:
    """Copy into ``seen`` the gradients that ``optimiser`` is about to apply."""
    apply = optimiser.step

    def step() -> float:
        kept = {f"{name}/{i}": p.grad for i, p in enumerate(optimiser.parameters) if p.grad is not None}
        seen.update({key: gradient.clone() for key, gradient in kept.items()})
        return apply()

    optimiser.step = step


def opinionated(stage: AdversarialStage) -> AdversarialStage:
    """With a discriminator as after some training: its weights moved at random, away from where it tells nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in stage.judges.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator).to(weight)
    return stage


def draw_with_both_ends(stage: AdversarialStage) -> int:
    """A draw at which one of the first two samples steps to the data, and the other to a level clearly above it."""
    for draw in range(200):
        (batch,) = stage.micro_batches(draw)
        low, high = stage.levels(batch, draw).end[:2].sort().values.tolist()
        if low == 0 and high > 0.1:
            return draw
    raise AssertionError("no such draw")


# What moves


# Each architecture, loss, objective and target beside several of the others.
COVER = [
    ("flux_features", "relativistic", "hybrid", "x0"),
    ("flux_features", "bce", "annealed", "jump"),
    ("flux_features", "lsgan", "pure", "two_samplers"),
    ("flux_features", "hinge", "hybrid", "two_samplers"),
    ("patch_cnn", "relativistic", "pure", "jump"),
    ("patch_cnn", "wgan-gp", "hybrid", "two_samplers"),
    ("patch_cnn", "hinge", "annealed", "x0"),
    ("cnn", "wgan-gp", "annealed", "jump"),
    ("cnn", "lsgan", "hybrid", "x0"),
    ("cnn", "bce", "pure", "two_samplers"),
    ("mlp", "bce", "hybrid", "jump"),
    ("mlp", "relativistic", "annealed", "two_samplers"),
    ("mlp", "wgan-gp", "pure", "x0"),
]


@each_family
@pytest.mark.parametrize(("architecture", "loss", "objective", "target"), COVER)
def test_each_update_moves_exactly_its_own_network(start, data, architecture, loss, objective, target):
    changes = {"target": target, **OBJECTIVES[objective]}
    stage = make(start, data, {"architecture": architecture, "loss": loss}, **changes)
    first = state(stage)
    values = stage.update_discriminator(0)
    second = state(stage)
    for network in stage.judges.networks:
        assert {k for k in moved(first["discriminator"], second["discriminator"]) if f".{network}." in k}, network
    assert not moved(first["lora"], second["lora"]) and not moved(first["base"], second["base"])
    assert all(p.grad is None for p in lora.parameters(stage.base)), "the discriminator's update left a gradient"

    values |= stage.update_both(1, 0, teach=False)
    third = state(stage)
    assert moved(second["lora"], third["lora"]) == set(second["lora"]), "a part of the LoRA has no gradient"
    assert not moved(second["discriminator"], third["discriminator"]) and not moved(second["base"], third["base"])
    assert all(p.grad is None and p.requires_grad for p in stage.judges.parameters())
    assert all(math.isfinite(value) for value in values.values())
    expected = values["adversarial_weight"] * values["adversarial_loss"]
    if objective != "pure":
        expected += values["diffusion_weight"] * values["diffusion_loss"]
    assert values["total_loss"] == pytest.approx(expected, rel=1e-5)

    stage.update_both(2, 1, teach=True)
    fourth = state(stage)
    assert moved(third["lora"], fourth["lora"]) and moved(third["discriminator"], fourth["discriminator"])
    assert not moved(third["base"], fourth["base"])


@each_family
@pytest.mark.parametrize(
    ("architecture", "loss", "target"),
    [("flux_features", "relativistic", "two_samplers"), ("flux_features", "bce", "x0"), ("cnn", "wgan-gp", "jump")],
)
def test_learning_together_is_each_learning_alone(start, data, architecture, loss, target):
    """On the same fakes neither network's gradient is touched by the other's loss."""
    judge = {"architecture": architecture, "loss": loss, "penalty_share": 1.0}
    seen = {}
    for how in ("together", "lora", "discriminator"):
        stage = opinionated(make(start, data, judge, target=target))
        kept = seen.setdefault(how, {})
        keep_gradients(stage.optimiser, "lora", kept)
        keep_gradients(stage.discriminator_optimiser, "discriminator", kept)
        if how == "discriminator":
            stage.update_discriminator(3)
        else:
            stage.update_both(3, 0, teach=how == "together")
    assert len(seen["lora"]) > 20 and len(seen["discriminator"]) > 5
    assert seen["together"].keys() == seen["lora"].keys() | seen["discriminator"].keys()
    assert not seen["lora"].keys() & seen["discriminator"].keys()
    for how in ("lora", "discriminator"):
        assert relative(seen["together"], seen[how]) < 1e-6


@each_family
def test_freezing_keeps_the_graph_to_the_latents(start, data):
    for architecture in ("patch_cnn", "flux_features"):
        stage = make(start, data, {"architecture": architecture})
        (batch,) = stage.micro_batches(0)
        prediction = stage.predict(batch, 0)
        shown = stage.shown(batch, prediction.levels, stage.endpoint(prediction, prediction.velocity.detach()), 0)
        fake = shown.fake.detach().requires_grad_()
        with stage.judges.frozen():
            seen = stage.judges.look(fake, shown.level, shown.conditioning)
            sum(m.sum() for maps in stage.judges.verdicts(seen, shown.rows).values() for m in maps).backward()
        assert fake.grad.abs().sum() > 0
        assert all(p.grad is None and p.requires_grad for p in stage.judges.parameters())


# The gradient


@each_family
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    ("architecture", "loss", "target", "renoise"),
    [
        ("flux_features", "relativistic", "x0", True),
        ("flux_features", "bce", "jump", True),
        ("flux_features", "bce", "two_samplers", True),
        ("cnn", "relativistic", "two_samplers", True),
        ("cnn", "bce", "x0", False),
    ],
)
def test_the_generators_gradient_is_the_chain_rules(
    start, data, architecture, loss, target, renoise, checkpointing
):
    """d loss / d LoRA from the pieces: gradient at the velocity by hand, pulled back through the transformer alone.

    At the velocity v: the flow loss gives 2 (v - target) / n; the adversarial part gives -(sigma - end) k dL/dz, with z
    what the discriminator sees at level s, and k = (1 - s) / (1 - end) its factor of the endpoint.
    """
    judge = {"architecture": architecture, "loss": loss}
    changes = {"target": target, "renoise": renoise, "adversarial_weight": 0.7}
    stage = opinionated(make(start, data, judge, gradient_checkpointing=checkpointing, **changes))
    seen: dict[str, torch.Tensor] = {}
    keep_gradients(stage.optimiser, "lora", seen)

    draw = draw_with_both_ends(stage)
    (batch,) = stage.micro_batches(draw)
    prediction = stage.predict(batch, draw)
    velocity = prediction.velocity.detach()
    sigma, end, level, told = (values[:, None, None, None] for values in prediction.levels)
    endpoint = (1 - sigma) * batch.x0 + sigma * prediction.noise - (sigma - end) * velocity
    shown = stage.shown(batch, prediction.levels, endpoint, draw)
    z = shown.fake.clone().requires_grad_()
    few = stage.few_step(batch)
    losses = []
    for row in range(2):
        network = stage.judges.networks["x0" if few[row] else "jump"]
        one = slice(row, row + 1)
        prompts = type(shown.conditioning)(*(t[one] for t in shown.conditioning))
        fake = network(z[one], told[one].flatten(), prompts)
        real = network(shown.real[one], told[one].flatten(), prompts)
        maps = zip(fake, real, strict=True)
        losses.append(sum(F.softplus((r.detach() if loss == "relativistic" else 0) - f).mean() for f, r in maps))
    (dz,) = torch.autograd.grad(sum(losses) / (2 * len(fake)), z)
    factor = (1 - level) / (1 - end)
    at_velocity = 2 * (velocity - (prediction.noise - batch.x0)) / velocity.numel()
    adversarial = -(sigma - end) * factor * dz
    weights = lora.parameters(stage.base)
    expected = torch.autograd.grad(prediction.velocity, weights, at_velocity + 0.7 * adversarial)

    values = stage.update_both(draw, 0, teach=False)
    assert relative(seen, {f"lora/{i}": g for i, g in enumerate(expected)}) < 1e-5
    assert values["adversarial_loss"] == pytest.approx(sum(losses).item() / (2 * len(fake)), rel=1e-5)
    assert values["adversarial_velocity_grad"] == pytest.approx(adversarial.norm().item(), rel=1e-5)
    assert values["diffusion_velocity_grad"] == pytest.approx(at_velocity.norm().item(), rel=1e-5)
    cosine = F.cosine_similarity(adversarial.flatten(), at_velocity.flatten(), 0).item()
    assert values["velocity_grad_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert adversarial.norm() > 1e-3 * at_velocity.norm()


def test_pure_is_the_adversarial_gradient_alone(start, data):
    """At an adversarial weight of 0, hybrid moves the LoRA by the flow loss, and pure has nothing to move it by."""
    norms = {}
    for objective in ("hybrid", "pure"):
        stage = make(start, data, objective=objective, adversarial_weight=0.0)
        norms[objective] = stage.step(0)["grad_norm"]
    assert norms["hybrid"] > 1e-4 and norms["pure"] == 0


# Accumulation


PENALISED = {
    "r1": 0.5,
    "r2": 0.5,
    "centring": 0.1,
    "penalty_share": 0.5,
    "augmentation": "fixed",
    "augmentation_probability": 0.5,
}


@each_family
@pytest.mark.parametrize(
    ("judge", "changes"),
    [
        ({"loss": "relativistic", **PENALISED}, {"target": "two_samplers"}),
        ({"loss": "bce", "lecam": 0.3, **PENALISED}, {"target": "two_samplers", "few_step_guidance": 4.0}),
        ({"loss": "hinge", "lecam": 0.3, **PENALISED, "r2": 0.0}, {"target": "jump"}),
        ({"loss": "lsgan", "penalty_share": 1.0}, {"target": "x0", "balance": "gradient_ratio"}),
        ({"architecture": "patch_cnn", "loss": "wgan-gp", **PENALISED}, {"target": "two_samplers"}),
        ({"architecture": "cnn", "loss": "relativistic", "lecam": 0.3, **PENALISED}, {"target": "x0"}),
        ({"architecture": "mlp", "loss": "hinge", **PENALISED}, {"target": "x0", "renoise": False}),
        ({"loss": "relativistic", "replay_share": 0.5}, {"target": "two_samplers"}),
        ({"loss": "bce", "mismatched_share": 1.0}, {"target": "jump"}),
    ],
    ids=lambda value: "-".join(str(v) for k, v in value.items() if k in ("architecture", "loss", "target")),
)
def test_four_batches_of_one_are_one_batch_of_four(start, data, family, judge, changes):
    """The gradients of both networks in a second iteration, which running means of the first enter."""
    gradients, values = [], []
    for size, parts in ((4, 1), (1, 4)):
        # Too slow a learning to tell, as an optimiser's first step turns rounding into the sign of a gradient.
        stage = opinionated(
            make(
                start, data, {**judge, "learning_rate": 1e-8}, learning_rate=1e-8, batch_size=size,
                gradient_accumulation=parts, discriminator_updates=2, **family.accepted(changes),
            )  # fmt: skip
        )
        seen = {}
        stage.step(0)
        for name, optimiser in (("discriminator", stage.discriminator_optimiser), ("lora", stage.optimiser)):
            keep_gradients(optimiser, name, seen)
        values.append(stage.step(1))
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for network in ("discriminator", "lora"):
        whole, summed = ({k: v for k, v in g.items() if k.startswith(network)} for g in gradients)
        assert relative(summed, whole) < 1e-4, network
    assert values[0].keys() == values[1].keys()
    for key in values[0]:
        assert values[0][key] == pytest.approx(values[1][key], rel=1e-3, abs=1e-5), key


def test_lecams_means_are_those_of_each_samplers_verdicts(start, data):
    """Of an iteration's samples, and half of an iteration's without a kind of sample leaves that kind's means."""
    stage = opinionated(make(start, data, {"loss": "bce", "lecam": 0.3}, batch_size=4, target="two_samplers"))
    (batch,) = stage.micro_batches(0)
    shown = stage.shown(batch, *levels_and_endpoint(stage, batch, 0), 0)
    stage.update_discriminator(0)
    fresh = opinionated(make(start, data, {"loss": "bce"}, target="two_samplers")).judges
    with torch.no_grad():
        for endpoint, rows in shown.rows.items():
            for side, mean in zip((shown.real, shown.fake), stage.judges.lecam[endpoint].means, strict=True):
                maps = fresh.networks[endpoint](side[rows], shown.level[rows], shown.conditioning.rows(rows))
                assert mean == pytest.approx(torch.stack([m.mean() for m in maps]).mean().item(), rel=1e-4)
    before = {name: means.state_dict() for name, means in stage.judges.lecam.items()}
    one = {"x0": torch.ones(2)}
    stage.judges.update_lecam([one], [one])
    assert stage.judges.lecam["jump"].state_dict() == before["jump"]
    assert stage.judges.lecam["x0"].state_dict() != before["x0"]


def levels_and_endpoint(stage, batch, draw):
    with torch.no_grad():
        prediction = stage.predict(batch, draw)
        return prediction.levels, stage.endpoint(prediction, prediction.velocity)


# What is shown


@each_family
@pytest.mark.parametrize("target", ["x0", "jump", "two_samplers"])
def test_a_perfect_generators_fakes_have_the_law_of_reals(start, data, target):
    """Mean (1 - s) x0 and variance s^2 on both sides of a pair, with independent noise, over many draws."""
    stage = make(start, data, target=target)
    sides: dict[str, list[torch.Tensor]] = {"real": [], "fake": []}
    clean_latents = []
    for draw in range(60):
        (batch,) = stage.micro_batches(draw)
        levels = stage.levels(batch, draw)
        noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(draw)).to(batch.x0)
        sigma, end, level, _ = (v[:, None, None, None] for v in levels)
        endpoint = (1 - sigma) * batch.x0 + sigma * noise - (sigma - end) * (noise - batch.x0)
        shown = stage.shown(batch, levels, endpoint, draw)
        assert torch.equal(shown.level, levels.seen)
        for row in range(2):
            clean_latents.append(batch.x0[row].flatten().double())
            for side, latents in (("real", shown.real), ("fake", shown.fake)):
                clean = (1 - level[row]) * batch.x0[row]
                sides[side].append(((latents[row] - clean) / level[row]).flatten().double())
    real, fake = (torch.stack(sides[side]) for side in ("real", "fake"))
    count = real.numel()
    for noises in (real, fake):
        assert abs(noises.mean().item()) < 4.5 / math.sqrt(count)
        assert abs((noises * torch.stack(clean_latents)).mean().item()) < 5 / math.sqrt(count), "too much of the data"
        assert noises.var().item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / count))
        # Also where levels are low and high: no sample's variance is off.
        assert (noises.var(1) - 1).abs().max() < 5.5 * math.sqrt(2 / real.shape[1])
    assert abs((real * fake).mean().item()) < 4.5 / math.sqrt(count), "a pair must not share its noise"


def test_without_renoising_pairs_are_shown_where_the_step_ends(start, data):
    """Estimates of the data beside clean latents, and a step's end beside the latents at its level."""
    stage = make(start, data, {"architecture": "cnn"}, renoise=False, target="x0")
    draw = draw_with_both_ends(stage)
    (batch,) = stage.micro_batches(draw)
    levels, _ = levels_and_endpoint(stage, batch, draw)
    endpoint = batch.x0 + 1
    shown = stage.shown(batch, levels, endpoint, draw)
    torch.testing.assert_close(shown.fake, endpoint, rtol=0, atol=1e-6)
    assert torch.equal(shown.level, levels.told) and torch.equal(levels.told, levels.sigma)
    for row, end in enumerate(levels.end.tolist()):
        noise = shown.real[row] - (1 - end) * batch.x0[row]
        if end == 0:
            assert torch.equal(shown.real[row], batch.x0[row])
        else:
            assert (noise / end).var().item() == pytest.approx(1, abs=4.5 * math.sqrt(2 / noise.numel()))
            assert abs((noise / end * batch.x0[row]).mean().item()) < 4.5 / math.sqrt(noise.numel()), "it is clean"


def test_both_sides_of_a_pair_are_augmented_alike(start, data):
    """The same places are emptied and the same shift made; each pair of its own; at the configured probability."""
    augmented = {"augmentation": "fixed", "augmentation_probability": 0.5}
    stage = make(start, data, augmented, batch_size=4, target="jump")
    whole = changed = 0
    for draw in range(25):
        (batch,) = stage.micro_batches(draw)
        levels = stage.levels(batch, draw)
        plain = make_shown(stage, batch, levels, draw, probability=0.0)
        shown = make_shown(stage, batch, levels, draw, probability=0.5)
        assert stage.overfitting.augmentation.probability == 0.5
        for row in range(4):
            empty = [(side[row] == 0).all(0) for side in (shown.real, shown.fake)]
            assert torch.equal(*empty)
            same = [torch.equal(a[row], b[row]) for a, b in zip(shown[:2], plain[:2], strict=True)]
            assert same[0] == same[1]
            whole += same[0]
            changed += not same[0]
    # Neither a shift nor a cutout: a quarter of the samples.
    assert whole / (whole + changed) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 100))


def make_shown(stage, batch, levels, draw, probability):
    stage.overfitting.augmentation.probability = probability
    endpoint = batch.x0 + 0.5
    return stage.shown(batch, levels, endpoint, draw)


def test_slopes_are_in_units_of_the_training_latents(start, data):
    """Their deviation within channels; held-out pictures and the channels' means have no part in it."""
    shifted = [
        dataclasses.replace(s, mean=2 * s.mean + torch.arange(16.0)[:, None, None] + (9 if i in data.held_out else 0))
        for i, s in enumerate(data.samples)
    ]
    stage = make(start, dataclasses.replace(data, samples=tuple(shifted)))
    training = torch.stack([shifted[i].mean for i in data.training]).transpose(0, 1).flatten(1)
    assert stage.judges.deviation == pytest.approx(training.var(1, correction=0).mean().sqrt().item(), rel=1e-5)


@each_family
def test_accuracy_does_not_depend_on_how_the_batch_is_cut(start, data):
    values = [
        opinionated(make(start, data, batch_size=size, gradient_accumulation=parts)).update_discriminator(0)
        for size, parts in ((4, 1), (1, 4))
    ]
    for key in ("real_accuracy", "fake_accuracy", "pair_accuracy", "real_logits", "fake_logits", "discriminator_loss"):
        assert values[0][key] == pytest.approx(values[1][key], rel=1e-4, abs=1e-6), key


# Two samplers


@each_family
def test_each_sample_has_the_judge_of_its_sampler(start, data):
    """Half of a batch is for the few-step sampler, and that half alone meets the x0 judge, in all of an update."""
    # Held-out pictures would take another look now and then.
    data = dataclasses.replace(data, held_out=())
    stage = make(start, data, {"penalty_share": 1.0}, target="two_samplers", batch_size=4)
    assert list(stage.judges.networks) == ["x0", "jump"]
    assert not set(stage.judges.networks["x0"].parameters()) & set(stage.judges.networks["jump"].parameters())
    judged: dict[str, list[torch.Tensor]] = {"x0": [], "jump": []}
    for name, network in stage.judges.networks.items():
        judge = network.judge

        def spy(seen, judge=judge, name=name):
            judged[name].append(seen.pooled)
            return judge(seen)

        network.judge = spy
    for draw in range(3):
        for passes in judged.values():
            passes.clear()
        (batch,) = stage.micro_batches(draw)
        assert batch.few_step == in_few_step_mode(draw, range(4)) and sum(batch.few_step) == 2
        stage.update_both(draw, 0, teach=True)
        for name, passes in judged.items():
            own = Conditioning(batch.prompt_embeds, batch.pooled_prompt_embeds).pooled
            own = own[[few == (name == "x0") for few in batch.few_step]]
            # Real and fake for the LoRA, again for the discriminator, and each side's slope from two points.
            assert len(passes) == 8
            assert all(torch.equal(pooled, own) for pooled in passes)


def passes_of(stage, draw) -> tuple[object, list[dict[str, torch.Tensor]], list[torch.Tensor]]:
    """A batch, and what the transformer as the generator, and the time embedding in all passes, were given."""
    generator, embedded = [], []
    handles = [
        stage.base.transformer.register_forward_pre_hook(
            lambda _, __, named: generator.append(named), with_kwargs=True
        ),
        stage.base.transformer.time_text_embed.register_forward_pre_hook(lambda _, given: embedded.append(given[1])),
    ]
    (batch,) = stage.micro_batches(draw)
    stage.update_both(draw, 0, teach=True)
    for handle in handles:
        handle.remove()
    return batch, generator, embedded


def test_guidance_tells_the_samplers_apart(start):
    """Each sample's own guidance for the generator, the stage's for the judge, and plain prompts for both."""
    data = make_data()
    stage = make(start, data, target="two_samplers", few_step_guidance=4.0, guidance=1.5, batch_size=4)
    batch, generator, embedded = passes_of(stage, 1)
    (given,) = generator
    few = torch.tensor(batch.few_step)
    assert torch.equal(given["guidance"].cpu(), torch.where(few, 4.0, 1.5))
    captions = {p.prompt_embeds.numpy().tobytes() for p in data.prompts}
    assert all(row.numpy().tobytes() in captions for row in given["encoder_hidden_states"].cpu())
    assert torch.equal(embedded[0], 1000 * given["guidance"])
    assert len(embedded) >= 3 and all(bool((seen == 1500).all()) for seen in embedded[1:])


def test_a_phrase_tells_the_samplers_apart(start, data):
    stage = make(start, data, target="two_samplers", guidance=1.5, batch_size=4)
    batch, generator, _ = passes_of(stage, 1)
    (given,) = generator
    assert bool((given["guidance"] == 1.5).all())
    number = {sample.name: sample.prompt for sample in data.samples}
    for row, (name, few) in enumerate(zip(batch.names, batch.few_step, strict=True)):
        prompt = (data.few_step_prompts if few else data.prompts)[number[name]]
        assert torch.equal(given["encoder_hidden_states"][row].cpu(), prompt.prompt_embeds)
        assert torch.equal(given["pooled_projections"][row].cpu(), prompt.pooled_prompt_embeds)


def test_one_sampler_has_plain_prompts_and_one_judge(start, data):
    stage = make(start, data, target="x0", few_step_guidance=4.0, guidance=1.5)
    assert list(stage.judges.networks) == ["x0"]
    _, (given,), _ = passes_of(stage, 1)
    assert bool((given["guidance"] == 1.5).all())
    plain = {p.prompt_embeds.numpy().tobytes() for p in data.prompts}
    assert all(row.numpy().tobytes() in plain for row in given["encoder_hidden_states"].cpu())


@pytest.mark.parametrize(
    ("judge", "changes", "error", "words"),
    [
        ({"loss": "wgan-gp"}, {}, ValueError, "wgan-gp needs second derivatives.*patch_cnn"),
        ({}, {"renoise": False}, ValueError, "flux_features cannot judge clean latents.*renoise"),
        ({}, {"target": "two_samplers"}, DataError, "two_samplers needs a way.*few_step_phrase.*few_step_guidance"),
        ({"taps": "d9"}, {}, ValueError, "'d9' is no block"),
        *(
            ({"architecture": name, "mismatched_share": 0.1}, {}, ValueError, f"{name} does not look at prompts.*to 0")
            for name in ("patch_cnn", "cnn", "mlp")
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(start, judge, changes, error, words):
    with pytest.raises(error, match=words):
        make(start, make_data(), judge, **changes)


def test_few_step_guidance_needs_a_base_that_takes_it(random_transformer, tmp_path):
    config = {**load_base(BaseReference(str(random_transformer), "fp32"), DEVICE).transformer.config}
    FluxTransformer2DModel.from_config({**config, "guidance_embeds": False}).save_pretrained(tmp_path)
    start = lora.create(BaseReference(str(tmp_path), "fp32"), LoRAConfig(rank=2))
    with pytest.raises(ValueError, match="no guidance embedding.*few_step_phrase"):
        make(start, make_data(), target="two_samplers", few_step_guidance=4.0)
    make(start, with_phrase(make_data()), target="two_samplers").step(0)


# The course of the stage


def test_warm_up_trains_the_discriminator_alone(start, data):
    recorder = Recorder()
    config = dataclasses.replace(CONFIG, discriminator_warmup=3, steps=2, discriminator_updates=2)
    result = train_adversarial_stage(start, data, JUDGE, config, device=DEVICE, reporter=recorder)
    assert [("diffusion_loss" in r) for r in recorder.records] == [False] * 3 + [True] * 2
    assert all(r["total"] == 5 for r in recorder.records)
    assert result.lora.provenance[0]["steps_done"] == 2
    assert result.lora.provenance[0]["discriminator"]["width"] == 8
    assert [r.get("images_seen") for r in recorder.records] == [None] * 3 + [2, 4]


GUESSING = {"pair_accuracy": 0.5}


@pytest.mark.parametrize("updates", [1, 2])
def test_every_update_has_data_and_noise_of_its_own(start, data, monkeypatch, updates):
    """The last of the discriminator's updates is on the LoRA's own fakes; a draw is left for one more when adaptive."""
    stage = make(start, data, discriminator_warmup=2, steps=3, discriminator_updates=updates)
    used: list[tuple[str, int]] = []
    monkeypatch.setattr(stage, "update_discriminator", lambda draw: used.append(("D", draw)) or GUESSING)

    def both(draw, update, teach):
        used.append(("B" if teach else "G", draw))
        return {"pair_accuracy": 0.7}

    monkeypatch.setattr(stage, "update_both", both)
    for step in range(stage.total):
        stage.step(step)
    numbers = [draw for _, draw in used]
    assert numbers == sorted(set(numbers))
    assert "".join(who for who, _ in used) == "DD" + ("D" * (updates - 1) + "B") * 3


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.99, "G"), (0.7, "B"), (0.51, "DB")], ids=["strong", "healthy", "weak"]
)
def test_an_adaptive_ratio_follows_the_discriminator(start, data, monkeypatch, accuracy, expected):
    for ratio, told in (("adaptive", expected), ("fixed", "B")):
        stage = make(start, data, steps=31, discriminator_ratio=ratio)
        used: list[str] = []
        monkeypatch.setattr(stage, "update_discriminator", lambda draw, used=used: used.append("D") or {})

        def both(draw, update, teach, used=used):
            used.append("B" if teach else "G")
            return {"pair_accuracy": accuracy}

        monkeypatch.setattr(stage, "update_both", both)
        for step in range(30):
            stage.step(step)
        used.clear()
        values = stage.step(30)
        assert "".join(used) == told
        assert values["discriminator_updates"] == told.count("D") + told.count("B")


def warmed_up(start, data, monkeypatch, steps: int, accuracy: float) -> AdversarialStage:
    """A stage after ``steps`` updates of the discriminator alone, each with this accuracy."""
    stage = make(start, data, discriminator_warmup=steps, steps=3, watch=True, discriminator_ratio="adaptive")
    monkeypatch.setattr(stage, "update_discriminator", lambda _: {"pair_accuracy": accuracy})
    for step in range(steps):
        stage.step(step)
    return stage


@pytest.mark.parametrize(("accuracy", "expected"), [(1.0, 0), (0.7, 1), (0.5, 2)])
def test_the_warm_up_tells_how_the_discriminator_starts(start, data, monkeypatch, accuracy, expected):
    """Its accuracy is in the average that sets the number of updates at the LoRA's first."""
    stage = warmed_up(start, data, monkeypatch, 25, accuracy)
    assert stage.monitor.balance.updates == 25
    assert stage.monitor.balance.average == pytest.approx(accuracy)
    assert stage.discriminator_updates() == expected


@pytest.mark.parametrize("accuracy", [0.5, 1.0], ids=["blind", "won"])
def test_nothing_is_decided_in_the_warm_up(start, data, monkeypatch, accuracy):
    """However long the discriminator guesses, or has won, before the LoRA's first update: that one has its weight."""
    stage = warmed_up(start, data, monkeypatch, 400, accuracy)
    assert stage.weights(0)["adversarial_weight"] == CONFIG.adversarial_weight
    assert stage.monitor.after_update().kind == "fine" and not stage.monitor.take_lines()
    assert stage.monitor.balance.knows and stage.monitor.checkups.weight_scale == 1


def test_weights_follow_their_schedules(start, data):
    stage = make(
        start, data, steps=5, adversarial_weight=0.0, adversarial_weight_end=1.0, adversarial_schedule="linear",
        diffusion_weight=1.0, diffusion_weight_end=0.2, diffusion_schedule="cosine",
    )  # fmt: skip
    got = [stage.weights(update) for update in range(5)]
    assert [w["adversarial_weight"] for w in got] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [w["diffusion_weight"] for w in got] == pytest.approx(
        [1, 0.2 + 0.4 * (1 + 0.5**0.5), 0.6, 0.2 + 0.4 * (1 - 0.5**0.5), 0.2]
    )
    assert make(start, data, objective="pure").weights(0)["diffusion_weight"] == 0
    ramped = make(start, data, steps=8, adversarial_ramp=4, adversarial_weight=0.8)
    weights = [ramped.weights(update)["adversarial_weight"] for update in range(6)]
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_the_gradient_ratio_is_held(start, data):
    """Each weight is that of the norms before it; so, over the updates, weight x adversarial is about ratio x flow."""
    changes = {"balance": "gradient_ratio", "gradient_ratio": 0.4, "adversarial_weight": 0.05, "learning_rate": 1e-6}
    stage = opinionated(make(start, data, {"loss": "bce"}, steps=30, batch_size=4, **changes))
    records = [stage.step(step) for step in range(30)]
    flow, adversarial, weights = 0.0, 0.0, [0.05]
    for number, record in enumerate(records, start=1):
        new = max(0.1, 1 / number)
        flow = (1 - new) * flow + new * record["diffusion_velocity_grad"]
        adversarial = (1 - new) * adversarial + new * record["adversarial_velocity_grad"]
        weights.append(0.4 * flow / adversarial)
    assert [r["adversarial_weight"] for r in records] == pytest.approx(weights[:-1], rel=1e-6)
    late = records[8:]
    ratio = sum(r["adversarial_weight"] * r["adversarial_velocity_grad"] for r in late)
    ratio /= sum(r["diffusion_velocity_grad"] for r in late)
    assert ratio == pytest.approx(0.4, rel=0.25)
    assert records[0]["adversarial_velocity_grad"] * 0.05 != pytest.approx(
        0.4 * records[0]["diffusion_velocity_grad"], rel=0.3
    ), "it was so from the start"


def test_a_schedule_scales_the_measured_weight(start, data):
    stage = make(
        start, data, steps=3, balance="gradient_ratio", gradient_ratio=0.4, adversarial_weight=0.5,
        adversarial_weight_end=0.25, adversarial_schedule="linear",
    )  # fmt: skip
    stage.gradient_ratio.update(2.0, 4.0)
    assert [stage.weights(update)["adversarial_weight"] for update in range(3)] == pytest.approx([0.2, 0.15, 0.1])


def test_augmentation_follows_overfitting(start, data, monkeypatch):
    """Held-out pictures judged like fakes raise it, and what is steered by is measured in every phase of the stage."""
    changes = {"discriminator_warmup": 0, "steps": 24, "learning_rate": 1e-8, "target": "two_samplers"}
    stage = make(start, data, {"augmentation": "adaptive", "learning_rate": 1e-8}, **changes)
    seen = []
    monkeypatch.setattr(stage.overfitting.augmentation, "update", lambda *values: seen.append(values))
    records = [stage.update_discriminator(draw) for draw in range(overfitting.OVERFITTING_EVERY + 1)]
    assert len(seen) == 2 and all(math.isfinite(v) for values in seen for v in values)
    assert ["held_out_logits" in r for r in records] == [True] + [False] * 7 + [True]
    assert records[0]["held_out_logits"] == seen[0][1]
    assert seen[0][0] == records[0]["real_logits"] and seen[0][2] == records[0]["fake_logits"]


@pytest.mark.parametrize("warmup", [0, 3])
def test_overfitting_is_measured_beside_the_loras_updates(start, data, warmup):
    stage = make(start, data, {"augmentation": "adaptive"}, steps=17, discriminator_warmup=warmup)
    records = [stage.step(step) for step in range(stage.total)]
    assert any("held_out_logits" in record for record in records[max(warmup, 1) :])


@each_family
@pytest.mark.parametrize("target", ["x0", "two_samplers"])
def test_same_seed_same_weights(start, data, target):
    """With all that decides by itself: watch, adaptive ratio and augmentation, replay, balance."""
    judge = dataclasses.replace(JUDGE, augmentation="adaptive", augmentation_probability=0.3, replay_share=0.5)
    config = dataclasses.replace(
        CONFIG, watch=True, validate_every=2, watch_pictures=4, target=target, target_steps=2, discriminator_warmup=1,
        steps=3, ema_decay=0.9, balance="gradient_ratio", discriminator_ratio="adaptive",
    )  # fmt: skip
    runs = [
        train_adversarial_stage(start, data, judge, config, device=DEVICE, reporter=Recorder()) for _ in range(2)
    ]
    first, second = (run.lora.tensors for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)
    records = [
        [{k: v for k, v in r.items() if k != "seconds_per_step"} for r in run.log.records] for run in runs
    ]
    assert records[0] == records[1] and runs[0].log.notes == runs[1].log.notes
    raw = dataclasses.replace(config, watch=False)
    others = [
        train_adversarial_stage(start, data, other, raw, device=DEVICE, reporter=Recorder()).lora.tensors
        for other in (judge, dataclasses.replace(judge, seed=9))
    ]
    assert relative(*others) > 0


def test_inputs_stay_as_they_were(start, data):
    before = {key: tensor.clone() for key, tensor in start.tensors.items()}
    result = train_adversarial_stage(start, data, JUDGE, CONFIG, device=DEVICE, reporter=Recorder())
    assert all(torch.equal(before[key], start.tensors[key]) for key in before)
    assert all(not torch.equal(result.lora.tensors[key], before[key]) for key in before)


def test_a_runaway_discriminator_stops_the_stage_with_the_weights_kept(start, data):
    judge = dataclasses.replace(JUDGE, loss="lsgan", learning_rate=1.0, architecture="mlp")
    broken = dataclasses.replace(
        data, samples=tuple(dataclasses.replace(s, mean=s.mean * 1e30, std=None) for s in make_data().samples)
    )
    with pytest.raises(
        StageFailure, match=r"adversarial stage, update 1 of 2: \w+ is (inf|nan) for .*picture"
    ) as failure:
        train_adversarial_stage(start, broken, judge, CONFIG, device=DEVICE, reporter=Recorder())
    kept = failure.value.result.lora.tensors
    assert all(torch.equal(kept[key], start.tensors[key]) for key in kept)


def test_a_guidance_that_the_flow_loss_would_undo_is_told(start, data):
    """Held to the pictures at another guidance than 1; not with an anchor that knows the guidance, nor without one."""

    def told(**changes) -> bool:
        return any("teaches the LoRA to answer" in remark for remark in make(start, data, **changes).remarks)

    assert make(start, data).base.guidance_embeds
    assert told(guidance=3.5)
    assert not told() and not told(guidance=3.5, anchor="start") and not told(guidance=3.5, objective="pure")
