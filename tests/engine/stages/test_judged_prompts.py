"""The prompts that stage 2's judge is given: right ones, wrong ones, those of replayed fakes and of held-out reals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from fluxduel.tests.engine.conftest import CONTEXT, POOLED, make_data, with_phrase
from fluxduel.tests.engine.small import each_family
from fluxduel.tests.engine.stages.test_adversarial_stage import keep_gradients, levels_and_endpoint, make, opinionated
from fluxduel.tests.engine.stages.test_diffusion_stage import relative
from fluxduel.training.data.batches import micro_batches
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.real_latents import Prompt
from fluxduel.training.stages.overfitting import OVERFITTING_PICTURES, Overfitting
from fluxduel.training.stages.wrong_captions import WrongCaptions

ALIKE = dataclasses.replace(
    make_data(), samples=tuple(dataclasses.replace(sample, prompt=0) for sample in make_data().samples)
)


@pytest.fixture
def data(family):
    return with_phrase(make_data(small=family))


def number_of(data, embeds: torch.Tensor) -> tuple[int, bool]:
    """Which of the dataset's prompts these embeddings are, and whether they are those for the few-step sampler."""
    for few, prompts in ((False, data.prompts), (True, data.few_step_prompts)):
        for number, prompt in enumerate(prompts):
            if torch.equal(prompt.prompt_embeds, embeds.cpu()):
                return number, few
    raise AssertionError("no prompt of the dataset")


# Wrong captions


@each_family
@pytest.mark.parametrize("size", [1, 4])
def test_mismatched_captions_are_fakes(start, data, size):
    """Real latents with another picture's prompt, by hand; also at one image an update."""
    judge = {"loss": "bce", "mismatched_share": 1.0, "r1": 0.0, "r2": 0.0, "centring": 0.0}
    stage = opinionated(make(start, data, judge, batch_size=size, target="jump"))
    (batch,) = stage.micro_batches(0)
    shown = stage.shown(batch, *levels_and_endpoint(stage, batch, 0), 0)
    shown = shown._replace(wrong=stage.wrong_captions.of(batch, 0))
    network, prompts = stage.judges.networks["jump"], shown.conditioning

    def bce(real, fake) -> float:
        pairs = zip(real, fake, strict=True)
        return statistics.mean((F.softplus(-r).mean() + F.softplus(f).mean()).item() for r, f in pairs)

    with torch.no_grad():
        real, fake = (network(side, shown.level, prompts) for side in (shown.real, shown.fake))
        wrong = network(shown.real, shown.level, shown.wrong.conditioning)
        seen = [stage.judges.look(side, shown.level, prompts) for side in (shown.real, shown.fake)]
        loss = stage.judges.loss(shown, *seen)[0].item()
    assert loss == pytest.approx(bce(real, fake) + bce(real, wrong), rel=1e-5)
    assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in zip(real, wrong, strict=True))


@pytest.mark.parametrize("two_samplers", [False, True])
def test_a_wrong_caption_is_any_other_one_for_the_same_sampler(data, two_samplers):
    """Never the picture's own, also where that is dropped; each other training picture's as likely."""
    captions, seen = WrongCaptions(data, 0), Counter()
    for step in range(300):
        (batch,) = micro_batches(
            data, seed=0, step=step, batch_size=3, gradient_accumulation=1, caption_dropout=0.3,
            two_samplers=two_samplers,
        )  # fmt: skip
        wrong, differ = captions.of(batch, step)
        assert differ == (True,) * 3
        for row, own in enumerate(batch.captions):
            number, few = number_of(data, wrong.prompt_embeds[row])
            source = data.few_step_prompts if few else data.prompts
            assert torch.equal(source[number].pooled_prompt_embeds, wrong.pooled_prompt_embeds[row])
            assert number != own and few == (two_samplers and batch.few_step[row])
            seen[own, number] += 1
    training = {data.samples[index].prompt for index in data.training}
    pairs = {(own, other) for own in training for other in training if own != other}
    assert seen.keys() == pairs, "held-out pictures' captions are not shown"
    assert max(seen.values()) < 3 * 900 / len(pairs)


def test_wrong_captions_do_not_depend_on_how_a_batch_is_cut(data):
    captions = WrongCaptions(data, 0)
    cuts = [(4, 1, (0, 1)), (1, 4, (0, 1)), (1, 2, (0, 2)), (1, 2, (1, 2))]
    drawn = []
    for size, parts, share in cuts:
        batches = micro_batches(
            data, seed=0, step=7, batch_size=size, gradient_accumulation=parts, two_samplers=True, share=share
        )
        drawn.append(torch.cat([captions.of(batch, 7).conditioning.prompt_embeds for batch in batches]))
    whole, single, first, second = drawn
    assert torch.equal(whole, single) and torch.equal(whole, torch.cat([first, second]))
    assert not torch.equal(whole, captions.of(batches_of(data, 7)[0], 8).conditioning.prompt_embeds)


def batches_of(data, step):
    return micro_batches(data, seed=0, step=step, batch_size=4, gradient_accumulation=1, two_samplers=True)


def test_mismatched_captions_need_a_second_caption(start):
    with pytest.raises(DataError, match="no two training pictures have different captions.*mismatched_share to 0"):
        make(start, ALIKE, {"mismatched_share": 0.1})
    make(start, ALIKE)


def test_a_caption_that_is_alone_in_its_length_is_left_out_and_said(start):
    data = make_data()
    longer = Prompt("long", torch.randn(9, CONTEXT), torch.randn(POOLED))
    data = dataclasses.replace(data, prompts=(longer, *data.prompts[1:]))
    stage = make(start, data, {"mismatched_share": 1.0}, batch_size=1)
    (note,) = stage.take_notes()
    assert note.startswith("1 captions have no other of their encoded length") and not stage.take_notes()
    told = set()
    for step in range(30):
        (batch,) = stage.micro_batches(step)
        wrong = stage.wrong_captions.of(batch, step)
        assert wrong.differ == (batch.captions[0] != 0,)
        told.add(batch.captions[0])
        stage.update_discriminator(step)
    assert 0 in told and len(told) > 3


# Replay


def replayed(start, data, draw, captions, batch_size=4):
    """An update without and with replay of estimates that are 7 throughout: levels, endpoints, fakes, gradients."""
    fakes, gradients = [], []
    for share in (0.0, 1.0):
        judge = {"replay_share": share, "loss": "bce", "penalty_share": 1.0}
        stage = opinionated(make(start, data, judge, target="two_samplers", batch_size=batch_size))
        (batch,) = stage.micro_batches(draw)
        levels, endpoint = levels_and_endpoint(stage, batch, draw)
        old = dataclasses.replace(batch, captions=captions)
        stage.replay.recall(old, torch.full_like(endpoint, 7.0), [True] * len(captions), 0)
        stage.replay.keep()
        gradients.append({})
        keep_gradients(stage.optimiser, "lora", gradients[-1])
        loss = stage.judges.loss
        stage.judges.loss = lambda shown, *seen, loss=loss: fakes.append((shown, seen)) or loss(shown, *seen)
        stage.update_both(draw, 0, teach=True)
    return stage, batch, levels, endpoint, fakes, gradients


# Draws at which all few-step samples are estimates of the data, and at which some are steps to another level.
@pytest.mark.parametrize("to_the_data", [True, False])
def test_replayed_fakes_are_the_discriminators_alone(start, data, to_the_data):
    """The LoRA's gradient is that without replay; of the discriminator's fakes the estimates of the data are old.

    They are seen with the caption that they were made for, as the few-step sampler was given it.
    """
    stage = make(start, data, target="two_samplers", batch_size=4)
    for draw in range(50):
        (batch,) = stage.micro_batches(draw)
        ends = stage.levels(batch, draw).end[list(batch.few_step)]
        share = (ends == 0).double().mean().item()
        if share == 1 if to_the_data else 0 < share < 1:
            break
    stage, batch, levels, endpoint, fakes, (without, with_replay) = replayed(start, data, draw, (5, 3, 3, 5))
    (plain, _), (mixed, (seen_real, seen_fake)) = fakes
    assert relative(with_replay, without) == 0
    assert torch.equal(plain.real, mixed.real)
    k = ((1 - levels.seen) / (1 - levels.end))[:, None, None, None]
    count = 0
    for row, few in enumerate(batch.few_step):
        replaced = bool(few and levels.end[row] == 0)
        count += replaced
        expected = plain.fake[row] + k[row] * (7.0 - endpoint[row]) * replaced
        torch.testing.assert_close(mixed.fake[row], expected, rtol=1e-4, atol=1e-4)
        number, few_prompt = number_of(data, mixed.fake_conditioning.prompt_embeds[row])
        assert few_prompt == few
        assert number in (5, 3) if replaced else number == batch.captions[row]
        assert torch.equal(seen_real.pooled[row], batch.pooled_prompt_embeds[row])
        source = data.few_step_prompts if few else data.prompts
        assert torch.equal(seen_fake.pooled[row].cpu(), source[number].pooled_prompt_embeds)
    assert count


# Held-out reals


def held_out_prompts(data, size: int, draw: int, **changes) -> list[tuple[str, bool, int, bool]]:
    """Of one look: each picture's name, whether it is for the few-step sampler, its prompt, and whether that is."""
    from fluxduel.tests.engine.stages.test_adversarial_stage import CONFIG, JUDGE

    two_samplers = changes.pop("two_samplers")
    config = dataclasses.replace(CONFIG, batch_size=size, watch=True, **changes)
    found = []
    for batch in Overfitting(data, JUDGE, config, two_samplers).reals(draw):
        assert len(batch.names) <= size
        modes = batch.few_step or (False,) * len(batch.names)
        for row, (name, few) in enumerate(zip(batch.names, modes, strict=True)):
            found.append((name, few, *number_of(data, batch.prompt_embeds[row]), batch.positions[row]))
    return found


@pytest.mark.parametrize("two_samplers", [False, True])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_held_out_reals_are_judged_under_their_samplers_prompt(size, two_samplers):
    """At most batch_size at once, with draws of their own, half of them for each sampler; drawn, not the first ones."""
    data = with_phrase(make_data(count=60, held_out=40))
    seen, few_steps = Counter(), 0
    for draw in range(12):
        looked = held_out_prompts(data, size, draw, two_samplers=two_samplers)
        assert len({name for name, *_ in looked}) == len(looked) == OVERFITTING_PICTURES
        assert sorted(position for *_, position in looked) == list(range(16))
        assert looked == held_out_prompts(data, size, draw, two_samplers=two_samplers)
        for name, few, number, few_prompt, _ in looked:
            assert name == f"picture {number}" and few_prompt == few
            few_steps += few
        seen.update(name for name, *_ in looked)
    assert few_steps == (96 if two_samplers else 0)
    assert len(seen) > 36, "the same few stand for all"


def test_a_judge_that_reads_prompts_sees_no_overfitting_in_the_phrase(start, data):
    """Its verdict is one number for prompts with the phrase, another for plain ones, whatever the picture."""
    stage = make(start, data, {"augmentation": "adaptive"}, target="two_samplers", batch_size=4)
    few = {prompt.prompt_embeds.numpy().tobytes() for prompt in data.few_step_prompts}

    class Reader(torch.nn.Module):
        def look(self, latents, sigma, conditioning):
            told = [float(row.numpy().tobytes() in few) for row in conditioning.prompt_embeds.cpu()]
            return type(seen)((torch.tensor(told)[:, None, None, None].to(latents),), sigma, None)

        def judge(self, seen):
            return [seen.features[0] * 8 - 4]

    (batch,) = stage.micro_batches(0)
    shown = stage.shown(batch, *levels_and_endpoint(stage, batch, 0), 0)
    seen = stage.judges.look(shown.real, shown.level, shown.conditioning)
    for name in ("x0", "jump"):
        stage.judges.networks[name] = Reader()
    values = stage.steer_augmentation([torch.tensor([4.0, -4.0]), torch.tensor([-8.0, -8.0])], 0)
    # Before it is due nothing is looked at.
    assert values == {}
    stage.taught = 1
    values = stage.steer_augmentation([torch.tensor([4.0, -4.0]), torch.tensor([-8.0, -8.0])], 0)
    assert values["held_out_logits"] == pytest.approx(0.0, abs=1e-6) and math.isfinite(values["held_out_logits"])


def test_held_out_pictures_need_no_wrong_captions(start, data):
    """Their captions are not among those of the training pictures."""
    stage = make(start, data, {"augmentation": "adaptive", "mismatched_share": 1.0}, batch_size=1)
    assert "held_out_logits" in stage.update_discriminator(0)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_batch_knows_its_captions(data, dropout):
    """Each picture's own, and whether it is trained with the empty prompt in its place."""
    seen = Counter()
    for step in range(12):
        (batch,) = micro_batches(
            data, seed=0, step=step, batch_size=3, gradient_accumulation=1, caption_dropout=dropout
        )
        for row, (name, own, dropped) in enumerate(zip(batch.names, batch.captions, batch.dropped, strict=True)):
            prompt = data.empty_prompt if dropped else data.prompts[own]
            assert name == f"picture {own}" and torch.equal(batch.prompt_embeds[row], prompt.prompt_embeds)
            seen[dropped] += 1
    assert set(seen) == ({False, True} if dropout else {False})
