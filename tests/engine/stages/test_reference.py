"""Stage 2 in float64 beside a derivation of its own (``reference``): losses, logits, gradients of both networks."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data, practice_prompts, with_phrase
from fluxduel.tests.engine.discriminator.test_flux_features import attend_exactly, wide
from fluxduel.tests.engine.small import Small, each_family
from fluxduel.tests.engine.stages.reference import Reference
from fluxduel.training.base.base_model import load_base
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage

# (judge, stage, masks: none, of all pictures, or of every second one)
CONFIGURATIONS = [
    ({"loss": "relativistic"}, {"target": "x0"}, "none"),
    ({"loss": "relativistic"}, {"target": "x0"}, "all"),
    ({"loss": "bce", "lecam": 0.3}, {"target": "jump"}, "none"),
    ({"loss": "bce", "lecam": 0.3, "mismatched_share": 0.6}, {"target": "jump", "jump_steps": 0}, "some"),
    ({"loss": "hinge", "mismatched_share": 1.0}, {"target": "two_samplers"}, "none"),
    ({"loss": "hinge", "replay_share": 0.7}, {"target": "two_samplers"}, "all"),
    ({"loss": "lsgan", "replay_share": 1.0, "mismatched_share": 0.5}, {"target": "x0", "step_share": 0.3}, "some"),
    ({"loss": "relativistic", "replay_share": 1.0}, {"target": "x0", "step_share": 0.0}, "none"),
    ({"loss": "relativistic", "mismatched_share": 0.5}, {"target": "two_samplers", "few_step_guidance": 4.0}, "some"),
    ({"architecture": "patch_cnn", "loss": "wgan-gp"}, {"target": "two_samplers"}, "none"),
    ({"architecture": "patch_cnn", "loss": "wgan-gp", "replay_share": 0.7}, {"target": "x0"}, "all"),
    ({"architecture": "patch_cnn", "loss": "relativistic"}, {"target": "target_steps", "target_steps": 25}, "some"),
    ({"architecture": "patch_cnn", "loss": "hinge", "spectral_norm": True}, {"objective": "pure"}, "all"),
    ({"architecture": "cnn", "loss": "relativistic", "lecam": 0.2}, {"target": "two_samplers"}, "all"),
    ({"architecture": "cnn", "loss": "bce"}, {"target": "x0", "renoise": False}, "some"),
    ({"architecture": "cnn", "loss": "wgan-gp"}, {"target": "jump", "renoise": False}, "none"),
    ({"loss": "relativistic"}, {"target": "x0", "anchor": "start"}, "some"),
    ({"loss": "bce"}, {"target": "two_samplers", "few_step_guidance": 4.0, "anchor": "start"}, "all"),
    ({"architecture": "mlp", "loss": "lsgan", "lecam": 0.2}, {"target": "two_samplers"}, "some"),
    ({"architecture": "mlp", "loss": "relativistic", "replay_share": 0.5}, {"renoise_mean": 0.5}, "all"),
    ({"loss": "relativistic", "mismatched_share": 0.5}, {"target": "x0", "practice_share": 1.0}, "practice"),
    ({"loss": "bce"}, {"target_steps": 3, "practice_share": 1.0, "anchor": "start", "guidance": 3.0}, "practice"),
    ({"loss": "hinge", "replay_share": 1.0}, {"target": "x0", "step_share": 0.0, "practice_share": 0.6}, "practice"),
    ({"architecture": "patch_cnn", "loss": "relativistic"}, {"objective": "pure", "practice_share": 1.0}, "practice"),
    ({"loss": "relativistic", "mismatched_share": 0.5}, {"target": "distilled", "target_steps": 3}, "none"),
    ({"loss": "bce", "replay_share": 0.7}, {"target": "distilled", "guidance": 3.0}, "outside"),
    ({"loss": "hinge"}, {"target": "distilled", "objective": "pure", "practice_share": 0.5}, "practice, outside"),
    ({"architecture": "patch_cnn", "loss": "relativistic"}, {"target": "two_samplers"}, "outside"),
]


def masked(which: str, generator: torch.Generator, small: Small):
    data = with_phrase(make_data(side=8, small=small))
    samples = []
    for number, sample in enumerate(data.samples):
        mask = torch.rand(1, 8, 8, generator=generator).double() * (torch.rand(8, generator=generator) < 0.6)
        mask[0, 2:4, 2:6] = 1.0
        wanted = which == "all" or (which == "some" and number % 2)
        samples.append(dataclasses.replace(sample, mask=mask if wanted else None))
    practice = practice_prompts(small=small) if "practice" in which else ()
    outside = practice_prompts(seed=6, small=small) if "outside" in which else ()
    return wide(
        dataclasses.replace(data, samples=tuple(samples), practice_prompts=practice, outside_prompts=outside)
    )


def gradients(weights) -> list[torch.Tensor]:
    """Those collected so far, taken away."""
    found = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    for weight in weights:
        weight.grad = None
    return found


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float) -> None:
    size = math.sqrt(sum(t.square().sum().item() for t in theirs))
    apart = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True)))
    assert size > 1e-6 and apart < tolerance * size, (apart, size)


# What is left of single precision: the embedding of a level within the base, in batches of one and of two. A roll-out
# goes through it at each of its steps.
TOLERANCE, ROLLED_OUT = 1e-6, 2e-5


@each_family
@pytest.mark.parametrize(("judge", "changes", "masks"), CONFIGURATIONS)
def test_the_stage_agrees_with_its_derivation(start, family, monkeypatch, judge, changes, masks):
    """In a second update, which replays fakes of the first; no weight moves between the two."""
    attend_exactly(monkeypatch)
    generator = torch.Generator().manual_seed(11)
    data = masked(masks, generator, family)
    config = AdversarialStageConfig(
        **{"target": "x0", "adversarial_weight": 0.7, "diffusion_weight": 0.9, "batch_size": 2, "watch": False}
        | {"gradient_accumulation": 2, "gradient_checkpointing": False, "validate_every": 0}
        | {"outside_share": 1.0, "outside_weight": 2.5}
        | family.accepted(changes)
    )
    judge = DiscriminatorConfig(
        **{"width": 8, "depth": 2, "augmentation": "off", "r1": 0.4, "r2": 0.3, "centring": 0.1, "penalty_share": 0.8}
        | judge
    )
    stage = AdversarialStage(start, data, judge, config, device="cpu")
    stage.base.transformer.double()
    stage.base.dtype = torch.float64
    stage.judges.double()
    for weight in stage.judges.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator).double()
    monkeypatch.setattr(stage, "apply", lambda *_: 0.0)
    means = {}
    for number, (kind, running) in enumerate(stage.judges.lecam.items()):
        # The decay of three updates: means of 0.4 and -0.3, and so on.
        means[kind] = (0.4 + number, -0.3 - number)
        seen = 1 - 0.99**3
        running.load_state_dict({"real": means[kind][0] * seen, "fake": means[kind][1] * seen, "updates": 3})

    def velocity(x_t, sigma, prompts, guidance):
        return stage.base.velocity(x_t, sigma, *prompts, guidance)

    # The stage has moved on from its start; a second base, with the start's LoRA, is the anchor's derivation.
    at_start = load_base(start.base, "cpu")
    lora.attach(at_start, start)
    at_start.transformer.double()
    at_start.dtype = torch.float64
    for weight in lora.parameters(stage.base):
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator).double()

    def anchor(x_t, sigma, prompts, guidance):
        return at_start.velocity(x_t, sigma, *prompts, guidance)

    without = load_base(start.base, "cpu")
    without.transformer.double()
    without.dtype = torch.float64

    def bare(x_t, sigma, prompts, guidance):
        return without.velocity(x_t, sigma, *prompts, guidance)

    reference = Reference(velocity, stage.judges.networks, data, judge, config, means, anchor, bare, family.family.name)
    adapter, trained = lora.parameters(stage.base), list(stage.judges.parameters())
    weights = (0.0 if config.objective == "pure" else config.diffusion_weight, config.adversarial_weight)
    for draw in (4, 5):
        state = {kind: running.state_dict() for kind, running in stage.judges.lecam.items()}
        batches = stage.micro_batches(draw)
        whole = dataclasses.replace(
            batches[0],
            x0=torch.cat([b.x0 for b in batches]),
            prompt_embeds=torch.cat([b.prompt_embeds for b in batches]),
            pooled_prompt_embeds=torch.cat([b.pooled_prompt_embeds for b in batches]),
            mask=None if batches[0].mask is None else torch.cat([b.mask for b in batches]),
            positions=sum((b.positions for b in batches), ()),
            captions=sum((b.captions for b in batches), ()),
            few_step=sum((b.few_step for b in batches), ()),
        )
        expected = reference.update(whole, stage.levels(whole, draw), draw, weights, adapter, trained)
        values = stage.update_both(draw, 0, teach=True)
        ours = gradients(adapter), gradients(trained)
        for kind, running in stage.judges.lecam.items():
            running.load_state_dict(state[kind])
    assert reference.kept or not judge.replay_share
    rolled_out = config.target == "distilled" or data.practice_prompts or data.outside_prompts
    tolerance = ROLLED_OUT if rolled_out else TOLERANCE
    for name, value in expected.items():
        if name not in ("lora", "judges"):
            assert values[name] == pytest.approx(value, rel=tolerance, abs=1e-9), name
    assert_same(ours[0], expected["lora"], tolerance)
    assert_same(ours[1], expected["judges"], tolerance)
