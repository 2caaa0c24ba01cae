"""Updates on prompts without pictures: which, on what, from where, and what they leave alone.

Their losses and gradients are derived a second time in ``test_reference``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch

from fluxduel.tests.engine.conftest import LENGTH, Recorder, make_data, practice_prompts, with_phrase
from fluxduel.tests.engine.stages.test_adversarial_stage import keep_gradients, make, opinionated
from fluxduel.tests.engine.stages.test_diffusion_stage import relative
from fluxduel.training import flow
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.base.solvers import solve
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.data.batches import micro_batches
from fluxduel.training.data.data_error import DataError
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.stages.practice import Practice
from fluxduel.training.stages.stage import NonFiniteError


@pytest.fixture
def data():
    return dataclasses.replace(make_data(), practice_prompts=practice_prompts(), practice_fingerprint="practice")


def plain_batches(data, step: int, size: int = 2):
    return micro_batches(data, seed=0, step=step, batch_size=size, gradient_accumulation=1)


def test_the_share_of_updates_practises_on_each_prompt_alike(data):
    """Binomial, 5 deviations: 0.3 of 2000 updates, and a fifth of their samples for each of five prompts."""
    practice = Practice(data, AdversarialStageConfig(practice_share=0.3))
    due = [draw for draw in range(2000) if practice.due(draw)]
    assert abs(len(due) - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5
    seen: Counter[str] = Counter()
    names = {prompt.prompt_embeds.numpy().tobytes(): prompt.caption for prompt in data.practice_prompts}
    batches = plain_batches(data, 0, size=1)
    for draw in range(2000):
        (batch,) = practice.batches(batches, draw)
        seen[names[batch.prompt_embeds[0].numpy().tobytes()]] += 1
    assert set(seen) == {prompt.caption for prompt in data.practice_prompts}
    for caption, count in seen.items():
        assert abs(count - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5, caption


def test_pictures_keep_their_places_and_prompts_share_a_length(data):
    practice = Practice(data, AdversarialStageConfig())
    lengths = set()
    for draw in range(30):
        plain = plain_batches(data, draw, size=4)
        (batch,) = practice.batches(plain, draw)
        assert batch.drawn_prompts and not plain[0].drawn_prompts
        assert torch.equal(batch.x0, plain[0].x0) and batch.positions == plain[0].positions
        lengths.add(batch.prompt_embeds.shape[1])
        embeds = {prompt.prompt_embeds.numpy().tobytes(): prompt for prompt in data.practice_prompts}
        for row in range(4):
            prompt = embeds[batch.prompt_embeds[row].numpy().tobytes()]
            assert torch.equal(batch.pooled_prompt_embeds[row], prompt.pooled_prompt_embeds)
    assert lengths == {LENGTH + 1, LENGTH + 2}


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_roll_out_is_the_sampler_s_way(steps):
    """Through a velocity that depends on place and level: at each of the sampler's own levels the sampler's state."""
    practice = Practice(make_data(), AdversarialStageConfig())
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(1)).double()

    def velocity(x, sigma):
        return torch.sin(3 * x) * sigma.view(-1, 1, 1, 1) + 0.3 * x

    sigmas = flow.sampling_sigmas(steps, flow.resolution_mu(FLUX_1.num_tokens(4, 6)))
    for reached in range(steps):
        expected = noise if reached == 0 else solve("euler", velocity, noise, sigmas[: reached + 1])
        found = practice.rolled_out(velocity, noise, sigmas[reached : reached + 1], sigmas)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_samples_of_one_batch_end_each_at_its_own_level(data):
    """As each alone does; with in_step all steps are evaluated, to the same end."""
    config = AdversarialStageConfig()
    noise = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    levels = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0]).double()
    sigma, calls = levels[[0, 2, 1]], []

    def velocity(x, sigma):
        calls.append(1)
        return torch.sin(3 * x) * sigma.view(-1, 1, 1, 1)

    together = Practice(data, config).rolled_out(velocity, noise, sigma, levels)
    assert len(calls) == 2
    for row in range(3):
        alone = Practice(data, config).rolled_out(velocity, noise[row : row + 1], sigma[row : row + 1], levels)
        torch.testing.assert_close(together[row : row + 1], alone)
    calls.clear()
    in_step = Practice(data, config, in_step=True).rolled_out(velocity, noise, sigma, levels)
    torch.testing.assert_close(in_step, together)
    assert len(calls) == 4


@pytest.mark.parametrize(("target_steps", "steps"), [(1, 1), (4, 4), (25, 8)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_practice_starts_where_the_sampler_does(start, data, target_steps, steps, precision):
    """At each of its levels alike (binomial, 5 deviations), as the base sees them; otherwise anywhere."""
    start = dataclasses.replace(start, base=dataclasses.replace(start.base, precision=precision))
    stage = make(start, data, target_steps=target_steps, practice_share=1.0, batch_size=4)
    mu = flow.resolution_mu(FLUX_1.num_tokens(4, 4))
    levels = stage.base.seen_sigma(flow.sampling_sigmas(steps, mu).float())[:-1].tolist()
    counts: Counter[float] = Counter()
    for draw in range(100):
        (batch,) = stage.micro_batches(draw)
        counts.update(stage.levels(batch, draw).sigma.tolist())
    assert set(counts) == set(levels) and len(levels) == steps
    for count in counts.values():
        assert abs(count - 400 / steps) <= 5 * (400 / steps * (1 - 1 / steps)) ** 0.5
    plain = make(start, data, target_steps=target_steps, practice_share=0.0, batch_size=4)
    (batch,) = plain.micro_batches(0)
    assert not set(plain.levels(batch, 0).sigma.tolist()) & set(levels)


def test_neither_side_is_shown_with_a_caption(start, data, monkeypatch):
    """By the discriminator's updates and the LoRA's, and in the penalties' looks."""
    stage = make(start, data, {"r1": 0.5, "r2": 0.5, "penalty_share": 1.0}, practice_share=1.0)
    given = []
    look = stage.judges.look

    def recorded(x, level, prompts):
        given.append(prompts)
        return look(x, level, prompts)

    monkeypatch.setattr(stage.judges, "look", recorded)
    stage.update_discriminator(0)
    stage.update_both(1, 0, teach=True)
    assert len(given) == 8
    for prompts in given:
        for row in prompts.prompt_embeds.cpu():
            assert torch.equal(row, data.empty_prompt.prompt_embeds)
        for row in prompts.pooled_prompt_embeds.cpu():
            assert torch.equal(row, data.empty_prompt.pooled_prompt_embeds)


def test_the_generator_draws_the_practice_prompts(start, data, monkeypatch):
    """Roll-out, prediction and anchor, all of them, at the stage's guidance."""
    stage = make(start, data, practice_share=1.0, guidance=3.0)
    given = []
    velocity = stage.base.velocity

    def recorded(x, sigma, embeds, pooled, guidance):
        given.append((embeds.cpu(), guidance))
        return velocity(x, sigma, embeds, pooled, guidance)

    monkeypatch.setattr(stage.base, "velocity", recorded)
    stage.step(0)
    known = {prompt.prompt_embeds.numpy().tobytes() for prompt in data.practice_prompts}
    assert len(given) > 2
    for embeds, guidance in given:
        assert all(row.numpy().tobytes() in known for row in embeds) and bool((guidance == 3.0).all())


def test_without_prompts_or_a_share_nothing_changes(start, data):
    def trained(some, **changes):
        stage = make(start, some, steps=3, **changes)
        return run(stage, Recorder()).lora

    plain = trained(make_data())
    for lora_ in (trained(make_data(), practice_share=1.0), trained(data, practice_share=0.0)):
        assert all(torch.equal(lora_.tensors[name], plain.tensors[name]) for name in plain.tensors)
    practised = trained(data, practice_share=1.0)
    assert any(not torch.equal(practised.tensors[name], plain.tensors[name]) for name in plain.tensors)
    assert practised.provenance[-1]["practice_prompts"] == 5 and "practice_prompts" not in plain.provenance[-1]


def test_the_anchor_is_there_for_practice_alone(start, data):
    """Held to the pictures otherwise: the flow loss of an update that does not practise is the plain one."""
    stage, plain = make(start, data, practice_share=0.5), make(start, make_data())
    due = {stage.practice.due(draw): draw for draw in range(20)}
    values = {
        practises: (stage.update_both(draw, 0, teach=False), plain.update_both(draw, 0, teach=False))
        for practises, draw in sorted(due.items())[:1]
    }
    assert set(due) == {True, False}
    ours, theirs = values[False]
    assert ours["diffusion_loss"] == theirs["diffusion_loss"] > 0
    fresh = make(start, data, practice_share=1.0)
    assert fresh.update_both(0, 0, teach=False)["diffusion_loss"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("architecture", ["flux_features", "patch_cnn"])
def test_four_batches_of_one_are_one_batch_of_four(start, data, architecture):
    gradients = []
    for size, parts in ((4, 1), (1, 4)):
        stage = opinionated(
            make(
                start, data, {"architecture": architecture, "learning_rate": 1e-8}, learning_rate=1e-8, batch_size=size,
                gradient_accumulation=parts, practice_share=1.0,
            )  # fmt: skip
        )
        seen = {}
        for name, optimiser in (("discriminator", stage.discriminator_optimiser), ("lora", stage.optimiser)):
            keep_gradients(optimiser, name, seen)
        stage.step(0)
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for network in ("discriminator", "lora"):
        whole, summed = ({k: v for k, v in g.items() if k.startswith(network)} for g in gradients)
        assert relative(summed, whole) < 1e-4, network


def test_what_does_not_go_with_practice_is_named(start, data):
    mask = torch.ones(1, 4, 4)
    masked = dataclasses.replace(data.samples[3], mask=mask)
    some_masked = dataclasses.replace(data, samples=(*data.samples[:3], masked, *data.samples[4:]))
    with pytest.raises(DataError, match="'picture 3' has a mask.*practice_share"):
        make(start, some_masked)
    with pytest.raises(ValueError, match="practice_prompts and two_samplers.*practice_share"):
        make(start, dataclasses.replace(with_phrase(data)), target="two_samplers")
    make(start, some_masked, practice_share=0.0)


    for changes in ({"anchor": "start"}, {"practice_share": 1.0}):
        with pytest.raises(ValueError, match="balance is gradient_ratio and .* begins at 0.*fixed"):
            make(start, data, balance="gradient_ratio", **changes)


def test_a_gradient_ratio_is_measured_where_the_pictures_are_held_to(start, data):
    """The flow loss of practice begins at 0, and a ratio to that would switch the adversarial loss off for good."""
    stage = make(start, data, balance="gradient_ratio", practice_share=0.6)
    due = {stage.practice.due(draw): draw for draw in range(20)}
    first = stage.gradient_ratio.weight
    stage.update_both(due[True], 0, teach=False)
    assert stage.gradient_ratio.weight == first and stage.gradient_ratio.state_dict()["updates"] == 0
    values = stage.update_both(due[False], 1, teach=False)
    expected = stage.config.gradient_ratio * values["diffusion_velocity_grad"] / values["adversarial_velocity_grad"]
    assert stage.gradient_ratio.weight == pytest.approx(expected)


def test_held_out_reals_are_shown_as_the_updates_own(start, data, monkeypatch):
    """Without a caption, at the sampler's levels, where it practised: they are compared with those."""
    stage = make(start, data, {"augmentation": "adaptive"}, practice_share=0.5)
    monkeypatch.setattr(stage.overfitting, "due", lambda _: True)
    levels = set(flow.sampling_sigmas(4, flow.resolution_mu(FLUX_1.num_tokens(4, 4))).float()[:-1].tolist())
    draws_of = {stage.practice.due(draw): draw for draw in range(20)}
    seen = []
    shown = stage.shown

    def recorded(batch, at, endpoint, draw, recalled=None):
        seen.append((at.sigma, found := shown(batch, at, endpoint, draw, recalled)))
        return found

    monkeypatch.setattr(stage, "shown", recorded)
    for practises, draw in draws_of.items():
        seen.clear()
        stage.update_discriminator(draw)
        assert len(seen) >= 2
        for sigma, one in seen:
            rows = one.conditioning.prompt_embeds.cpu()
            empty = all(torch.equal(row, data.empty_prompt.prompt_embeds) for row in rows)
            assert empty == practises == (set(sigma.tolist()) <= levels)


def test_options_that_practice_leaves_no_update_for_are_told(start, data):
    def told(share: float, judge=None, **changes) -> list[str]:
        return [text for text in make(start, data, judge, practice_share=share, **changes).remarks if "is 1:" in text]

    (text,) = told(1.0, {"replay_share": 0.5}, caption_dropout=0.1)
    assert "caption_dropout and replay_share are of updates that do not practise" in text
    assert not told(0.9, {"replay_share": 0.5}) and not told(1.0)


def test_a_broken_prompt_is_named(start, data):
    whole = data.practice_prompts[2]
    broken = dataclasses.replace(whole, prompt_embeds=whole.prompt_embeds * math.nan)
    prompts = (*data.practice_prompts[:2], broken, *data.practice_prompts[3:])
    stage = make(start, dataclasses.replace(data, practice_prompts=prompts), practice_share=1.0, batch_size=4)
    with pytest.raises(NonFiniteError, match="with practice prompt 'practice 2'"):
        for step in range(8):
            stage.step(step)


def test_alone_the_adversarial_loss_is_held_to_nothing(start, data):
    stage = make(start, data, practice_share=1.0, objective="pure", anchor="start")
    assert stage.anchor is None and stage.step(0)["diffusion_loss"] == 0


@pytest.mark.parametrize("in_step", [False, True])
def test_practice_costs_what_it_says(start, data, in_step):
    """Evaluations by count: a roll-out ends anywhere, so the mean of many updates; in step with others it is whole."""
    counted: Counter[str] = Counter()
    stages = {"practice": make(start, data, practice_share=1.0, batch_size=1), "plain": make(start, make_data())}
    stages["practice"].practice._in_step = stages["practice"].judges.in_step = in_step
    for kind, one in stages.items():
        velocity = one.base.velocity

        def recorded(*given, velocity=velocity, kind=kind):
            counted[kind] += 1
            return velocity(*given)

        one.base.velocity = recorded
        for draw in range(100):
            for batch in one.micro_batches(draw):
                with torch.no_grad():
                    one.anchored(batch, one.predict(batch, draw))
    practice, plain = stages.values()
    # 5 deviations of the mean of 100 levels out of four.
    within = 1e-9 if in_step else 5 * 1.12 / 10
    more = (counted["practice"] - counted["plain"]) / 100
    assert practice.evaluations_per_picture - plain.evaluations_per_picture == pytest.approx(more, abs=within)
    roll_out = practice._evaluations_of_discriminator - plain._evaluations_of_discriminator
    assert roll_out == pytest.approx(more - 1, abs=within)
