"""Stage 2: what an iteration moves, accumulation, schedules, and its gradient against a derivation of its own."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.tests.engine.test_diffusion_stage import relative
from fluxduel.training import lora
from fluxduel.training.adversarial_stage import AdversarialStage, parameters_frozen, train_adversarial_stage
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.stage import StageFailure

ARCHITECTURES = ("cnn", "mlp")
LOSSES = ("bce", "lsgan", "wgan-gp", "hinge", "relativistic")
OBJECTIVES = {
    "hybrid": {},
    "annealed": {"adversarial_schedule": "cosine", "adversarial_weight_end": 0.5, "diffusion_schedule": "linear"},
    "pure": {"objective": "pure"},
}
CONFIG = AdversarialStageConfig(
    steps=2,
    learning_rate=1e-3,
    batch_size=2,
    gradient_checkpointing=False,
    discriminator_warmup=0,
    validate_every=0,
    max_grad_norm=0.0,
    ema_decay=0.0,
)
JUDGE = DiscriminatorConfig(width=8, depth=2, max_grad_norm=0.0)


def make(start, data, judge=None, **changes) -> AdversarialStage:
    judge = dataclasses.replace(JUDGE, **(judge or {}))
    return AdversarialStage(start, data, judge, dataclasses.replace(CONFIG, **changes), device="cpu")


def state(stage: AdversarialStage) -> dict[str, dict[str, torch.Tensor]]:
    """Copies of all three sets of weights: the frozen base, the LoRA, the discriminator."""
    adapter = {id(p) for p in lora.parameters(stage.base)}
    base = {k: p.detach().clone() for k, p in stage.base.transformer.named_parameters() if id(p) not in adapter}
    judge = {k: v.detach().clone() for k, v in stage.discriminator.named_parameters()}
    return {"base": base, "lora": lora.snapshot(stage.base), "discriminator": judge}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize(
    ("architecture", "loss", "objective"), list(itertools.product(ARCHITECTURES, LOSSES, OBJECTIVES))
)
def test_each_update_moves_exactly_its_own_network(start, data, architecture, loss, objective):
    stage = make(start, data, {"architecture": architecture, "loss": loss}, **OBJECTIVES[objective])
    first = state(stage)
    values = stage.update_discriminator(0)
    second = state(stage)
    assert moved(first["discriminator"], second["discriminator"]), "the discriminator did not learn"
    assert not moved(first["lora"], second["lora"]) and not moved(first["base"], second["base"])
    assert all(p.grad is None for p in lora.parameters(stage.base)), "the discriminator's update left a gradient"

    values |= stage.update_generator(1, 0)
    third = state(stage)
    assert moved(second["lora"], third["lora"]) == set(second["lora"]), "a part of the LoRA has no gradient"
    assert not moved(second["discriminator"], third["discriminator"]) and not moved(second["base"], third["base"])
    assert all(p.grad is None and p.requires_grad for p in stage.discriminator.parameters())
    assert all(math.isfinite(value) for value in values.values())
    expected = values["adversarial_weight"] * values["adversarial_loss"]
    if objective != "pure":
        expected += values["diffusion_weight"] * values["diffusion_loss"]
    assert values["total_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("architecture", "loss"), list(itertools.product(ARCHITECTURES, LOSSES)))
def test_four_batches_of_one_are_one_batch_of_four(start, data, architecture, loss):
    """The gradients of both networks, and so what both updates do, over a whole iteration."""
    gradients = []
    for size, parts in ((4, 1), (1, 4)):
        judge = {"architecture": architecture, "loss": loss}
        stage = make(start, data, judge, batch_size=size, gradient_accumulation=parts, adversarial_weight=1.0)
        seen = {}
        for name, optimiser in (("discriminator", stage.discriminator_optimiser), ("lora", stage.optimiser)):
            keep_gradients(optimiser, name, seen)
        stage.step(0)
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for network in ("discriminator", "lora"):
        whole, summed = ({k: v for k, v in g.items() if k.startswith(network)} for g in gradients)
        assert relative(summed, whole) < 1e-4, network


def keep_gradients(optimiser, name: str, seen: dict[str, torch.Tensor]) -> None:
    """Copy into ``seen`` the gradients that ``optimiser`` is about to apply."""
    apply = optimiser.step

    def step() -> float:
        seen.update({f"{name}/{i}": p.grad.clone() for i, p in enumerate(optimiser.parameters)})
        return apply()

    optimiser.step = step


@pytest.mark.parametrize("renoise", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_generators_gradient_is_the_chain_rules(start, data, renoise, checkpointing):
    """d loss / d LoRA from the pieces: gradient at the velocity by hand, pulled back through the transformer alone.

    At the velocity v: the flow loss gives 2 (v - target) / n; the adversarial part gives -sigma k dL/dz, with z what
    the discriminator sees and k = 1 - s its factor of x0_hat (1 without renoising).
    """
    stage = make(
        start, data, {"loss": "bce"}, renoise=renoise, adversarial_weight=0.7, gradient_checkpointing=checkpointing
    )
    torch.nn.init.normal_(next(p for p in reversed(list(stage.discriminator.parameters())) if p.ndim > 1))
    seen: dict[str, torch.Tensor] = {}
    keep_gradients(stage.optimiser, "lora", seen)

    (batch,) = stage.micro_batches(5)
    prediction = stage.predict(batch, 5)
    velocity = prediction.velocity.detach()
    x_t = (1 - prediction.sigma)[:, None, None, None] * batch.x0 + prediction.sigma[
        :, None, None, None
    ] * prediction.noise
    x0_hat = x_t - prediction.sigma[:, None, None, None] * velocity
    _, z, level = stage.judged(batch, prediction._replace(x0_hat=x0_hat), 5)
    z = z.detach().requires_grad_()
    softplus = [torch.nn.functional.softplus(-m).mean() for m in stage.discriminator(z, level)]
    (dz,) = torch.autograd.grad(sum(softplus) / len(softplus), z)
    factor = (1 - level) if renoise else torch.ones_like(level)
    at_velocity = 2 * (velocity - (prediction.noise - batch.x0)) / velocity.numel()
    at_velocity -= 0.7 * (prediction.sigma * factor)[:, None, None, None] * dz
    weights = lora.parameters(stage.base)
    expected = torch.autograd.grad(prediction.velocity, weights, at_velocity)

    stage.update_generator(5, 0)
    assert relative(seen, {f"lora/{i}": g for i, g in enumerate(expected)}) < 1e-5


def test_accuracy_does_not_depend_on_how_the_batch_is_cut(start, data):
    values = [
        make(start, data, {"loss": "relativistic"}, batch_size=size, gradient_accumulation=parts).update_discriminator(
            0
        )
        for size, parts in ((4, 1), (1, 4))
    ]
    for key in ("real_accuracy", "fake_accuracy", "real_logits", "fake_logits", "discriminator_loss"):
        assert values[0][key] == pytest.approx(values[1][key], rel=1e-4, abs=1e-6), key


def test_freezing_keeps_the_graph_to_the_input(start, data):
    stage = make(start, data)
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    with parameters_frozen(stage.discriminator):
        logits = stage.discriminator(x, torch.tensor([0.5]))
        sum(m.sum() for m in logits).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in stage.discriminator.parameters())


@pytest.mark.parametrize("renoise", [True, False])
def test_real_and_fake_are_shown_at_one_level(start, data, renoise):
    """Renoised: the law of the level, with the same level in a pair and other noise. Clean: untouched."""
    stage = make(start, data, renoise=renoise)
    (batch,) = stage.micro_batches(0)
    prediction = stage.predict(batch, 0)
    real, fake, level = stage.judged(batch, prediction, 0)
    if not renoise:
        assert torch.equal(real, batch.x0) and torch.equal(fake, prediction.x0_hat)
        assert torch.equal(level, prediction.sigma)
        return
    k = (1 - level)[:, None, None, None]
    noises = [
        (shown - k * clean) / level[:, None, None, None]
        for shown, clean in ((real, batch.x0), (fake, prediction.x0_hat))
    ]
    assert ((level >= 0.02) & (level <= 0.98)).all() and not torch.equal(level, prediction.sigma)
    for noise in noises:
        assert noise.mean().abs() < 0.2 and 0.85 < noise.std() < 1.15
    assert (noises[0] * noises[1]).mean().abs() < 0.2


def test_warm_up_trains_the_discriminator_alone(start, data):
    recorder = Recorder()
    config = dataclasses.replace(CONFIG, discriminator_warmup=3, steps=2, discriminator_updates=2)
    result = train_adversarial_stage(start, data, JUDGE, config, device="cpu", reporter=recorder)
    assert [("diffusion_loss" in r) for r in recorder.records] == [False] * 3 + [True] * 2
    assert all(r["total"] == 5 for r in recorder.records)
    assert result.lora.provenance[0]["steps_done"] == 2
    assert result.lora.provenance[0]["discriminator"]["width"] == 8


def test_every_update_has_data_and_noise_of_its_own(start, data, monkeypatch):
    stage = make(start, data, discriminator_warmup=2, steps=3, discriminator_updates=2)
    used: list[tuple[str, int]] = []
    monkeypatch.setattr(stage, "update_discriminator", lambda draw: used.append(("D", draw)) or {})
    monkeypatch.setattr(stage, "update_generator", lambda draw, update: used.append(("G", draw)) or {"update": update})
    for step in range(stage.total):
        stage.step(step)
    assert [draw for _, draw in used] == list(range(2 + 3 * 3))
    assert "".join(who for who, _ in used) == "DD" + "DDG" * 3


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


def test_pure_is_the_adversarial_gradient_alone(start, data):
    """At an adversarial weight of 0, hybrid moves the LoRA by the flow loss, and pure has nothing to move it by."""
    norms = {}
    for objective in ("hybrid", "pure"):
        stage = make(start, data, objective=objective, adversarial_weight=0.0)
        norms[objective] = stage.step(0)["grad_norm"]
    assert norms["hybrid"] > 1e-4 and norms["pure"] == 0


def test_same_seed_same_weights(start, data):
    runs = [
        train_adversarial_stage(start, data, JUDGE, CONFIG, device="cpu", reporter=Recorder()).lora.tensors
        for _ in range(2)
    ]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    other = dataclasses.replace(JUDGE, seed=9)
    third = train_adversarial_stage(start, data, other, CONFIG, device="cpu", reporter=Recorder()).lora.tensors
    assert relative(third, runs[0]) > 0


def test_a_runaway_discriminator_stops_the_stage_with_the_weights_kept(start, data):
    judge = dataclasses.replace(JUDGE, loss="lsgan", learning_rate=1.0, architecture="mlp")
    broken = dataclasses.replace(
        data, samples=tuple(dataclasses.replace(s, mean=s.mean * 1e30, std=None) for s in make_data().samples)
    )
    with pytest.raises(
        StageFailure, match=r"adversarial stage, step 1 of 2: discriminator_loss is (inf|nan) for .*picture"
    ):
        train_adversarial_stage(start, broken, judge, CONFIG, device="cpu", reporter=Recorder())
