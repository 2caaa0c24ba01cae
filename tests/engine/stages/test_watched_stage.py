"""Stage 2 under watch: what is measured, skipped, gone back on and delivered, and where it is said."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.stages.test_adversarial_stage import CONFIG, JUDGE
from fluxduel.training.base import sampler
from fluxduel.training.base.base_model import load_base
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.data.real_latents import drawn
from fluxduel.training.evidence import latent_metrics
from fluxduel.training.evidence.random_features import FeatureSpace
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.run_directory import RunDirectory, fingerprint
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.stages import health
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.health import _FIRST_SEED, Examiner
from fluxduel.training.stages.stage import StageResult
from fluxduel.training.stages.watch import Health

WATCHED = dataclasses.replace(
    CONFIG, watch=True, validate_every=2, steps=8, learning_rate=1e-4, watch_pictures=4, target_steps=2,
    adversarial_weight=0.5,
)  # fmt: skip
FINE = Health(held_out_loss=1.0, diversity=1.0, high_frequency=1.0, score=1.0)


def better(score: float) -> Health:
    return dataclasses.replace(FINE, score=score)


SHARP = dataclasses.replace(FINE, high_frequency=5.0, score=0.1)
ALIKE = dataclasses.replace(FINE, diversity=0.01)
LOST = dataclasses.replace(FINE, held_out_loss=2.0)
BROKEN = dataclasses.replace(FINE, score=math.nan)


class Played:
    """A stage's run whose measurements of samples are given: what the LoRA was at each, and before each step."""

    def __init__(self, start, data, script: list[Health], monkeypatch, folder=None, **changes) -> None:
        self.examined: list[dict[str, Tensor]] = []
        self.before_step: list[dict[str, Tensor]] = []
        self.moments: list[int] = []
        self.recorder = Recorder()
        answers = iter(script)

        def examine(_, base, held_out_loss, after_step) -> Health:
            self.examined.append(lora.snapshot(base))
            return next(answers)

        monkeypatch.setattr(Examiner, "examine", examine)
        config = dataclasses.replace(WATCHED, **changes)
        self.stage = AdversarialStage(start, data, JUDGE, config, device=DEVICE)
        step_of_stage = self.stage.step

        def step(number: int) -> dict[str, float]:
            self.before_step.append(lora.snapshot(self.stage.base))
            self.moments.append(len(self.stage.optimiser._adamw.state))
            return step_of_stage(number)

        monkeypatch.setattr(self.stage, "step", step)
        wanted = fingerprint("adversarial", start, data, config, JUDGE)
        with nullcontext() if folder is None else RunDirectory.opened(folder, wanted, {}) as directory:
            self.result: StageResult = run(self.stage, self.recorder, directory)
        self.texts = [text for _, text in self.result.log.notes]


def same(a, b) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


# Going back, and what is delivered


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("collapse", [SHARP, ALIKE, LOST, BROKEN], ids=["sharp", "alike", "lost", "broken"])
def test_a_collapse_goes_back_to_the_best_state(start, data, monkeypatch, ema_decay, collapse):
    script = [FINE, better(0.5), collapse, FINE, FINE]
    played = Played(start, data, script, monkeypatch, ema_decay=ema_decay)
    best = played.examined[1]
    assert not same(best, played.examined[0]) and not same(best, played.examined[2])
    assert not same(best, played.before_step[3]), "nothing moved after the best state"
    assert same(best, played.before_step[4])
    if ema_decay:
        # What is examined, kept and put back is what would be delivered: the average, not the weights in training.
        assert not same(best, played.before_step[2])
    assert played.moments[3] > 0 and played.moments[4] == 0, "moments of the collapsed weights"
    assert same(best, played.result.lora.tensors) and not same(best, played.examined[4])
    weights = [r["adversarial_weight"] for r in played.recorder.records if "adversarial_weight" in r]
    assert weights == pytest.approx([0.5] * 4 + [0.25] * 2 + [0.275] * 2)
    assert not played.result.stopped and len(weights) == 8


def test_the_last_best_state_is_delivered(start, data, monkeypatch):
    played = Played(start, data, [FINE, better(0.5), better(0.4), better(0.45), FINE], monkeypatch)
    assert same(played.result.lora.tensors, played.examined[2])
    assert "The state of update 4 is delivered" in played.texts[-1]


def test_without_a_better_state_the_start_is_delivered(start, data, monkeypatch):
    played = Played(start, data, [FINE, better(1.5), better(1.2), FINE, better(2.0)], monkeypatch)
    assert same(played.result.lora.tensors, dict(start.tensors))
    assert "did not improve" in played.texts[-1]
    assert not same(played.before_step[-1], dict(start.tensors))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_stage_ends_at_the_third_collapse(start, data, monkeypatch, ema_decay):
    script = [FINE, better(0.5), SHARP, ALIKE, LOST, FINE, FINE]
    played = Played(start, data, script, monkeypatch, steps=12, ema_decay=ema_decay)
    assert len(played.before_step) == 8 and len(played.examined) == 5
    assert played.result.log.records[-1]["step"] == 8
    assert same(played.result.lora.tensors, played.examined[1])
    assert played.result.lora.provenance[-1]["steps_done"] == 8
    assert not played.result.stopped, "the user did not stop it"


def test_a_collapse_without_a_better_state_goes_back_to_the_start(start, data, monkeypatch):
    played = Played(start, data, [FINE, SHARP, FINE, SHARP, SHARP], monkeypatch)
    assert same(played.before_step[2], dict(start.tensors)) and same(played.before_step[6], dict(start.tensors))
    assert not same(played.before_step[3], dict(start.tensors))
    assert same(played.result.lora.tensors, dict(start.tensors))


def test_the_warm_up_is_not_examined(start, data, monkeypatch):
    """Beside the start: the LoRA is still what it was."""
    played = Played(start, data, [FINE, better(0.5), FINE], monkeypatch, discriminator_warmup=4, steps=4)
    assert same(played.examined[0], dict(start.tensors)) and len(played.examined) == 3
    assert same(played.examined[1], played.before_step[6])
    assert same(played.result.lora.tensors, played.examined[1])


def test_without_watch_nothing_intervenes(start, data, monkeypatch):
    """No sampling, no note, nothing skipped, and the last weights are delivered."""
    played = Played(start, data, [], monkeypatch, watch=False)
    (cost,) = played.texts
    assert not played.examined and len(played.recorder.notes) == 1 and cost.startswith("Measurements take about")
    assert len(played.before_step) == 8 and not same(played.result.lora.tensors, played.before_step[-1])
    assert all("score" not in r and "skipped_updates" not in r for r in played.recorder.records)
    assert [r["step"] for r in played.recorder.records if "held_out_loss" in r] == [0, 2, 4, 6, 8]
    good = Played(start, data, [FINE, better(0.9), better(0.8), better(0.7), better(0.6)], monkeypatch)
    assert same(good.result.lora.tensors, played.result.lora.tensors), "watching alone changed the training"


def test_measurements_and_notes_reach_everyone(start, data, monkeypatch, tmp_path):
    script = [FINE, better(0.5), SHARP, FINE, FINE]
    played = Played(start, data, script, monkeypatch, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    notes = [(line["step"], line["note"]) for line in lines if "note" in line]
    assert tuple(notes) == played.result.log.notes == tuple(played.recorder.notes)
    assert tuple(line for line in lines if "note" not in line) == played.result.log.records
    assert [step for step, _ in notes] == [0, 2, 4, 6, 8, 8]
    for text, words in zip(
        played.texts,
        (
            "Measurements take",
            "Score 0.5 is below 1",
            "High frequencies are 5.*goes back to .*update 2",
            "raised",
            "raised",
            "is delivered",
        ),
        strict=True,
    ):
        assert re.search(words, text), text
    scores = {r["step"]: (r["score"], r["high_frequency"], r["diversity"]) for r in lines if "score" in r}
    assert scores == {0: (1, 1, 1), 2: (0.5, 1, 1), 4: (0.1, 5, 1), 6: (1, 1, 1), 8: (1, 1, 1)}
    assert [r["roll_backs"] for r in lines if "roll_backs" in r] == [0] * 4 + [1] * 4
    # A measurement tells at once whether its state is the best.
    best = {r["step"]: (r["best_step"], r["best_score"]) for r in lines if "score" in r}
    assert best == {0: (0, 1), 2: (2, 0.5), 4: (2, 0.5), 6: (2, 0.5), 8: (2, 0.5)}


def test_a_reporter_may_stop_the_sampling(start, data):
    """Asked within the measurement of the samples, the stage ends with its weights in place."""
    polls = []

    class Impatient(Recorder):
        def should_stop(self) -> bool:
            polls.append(None)
            return len(polls) > 12

    config = dataclasses.replace(WATCHED, ema_decay=0.9)
    stage = AdversarialStage(start, data, JUDGE, config, device=DEVICE)
    result = run(stage, Impatient(), None)
    assert result.stopped and same(result.lora.tensors, stage.delivered())


# Gradients out of line


def poisoned(stage: AdversarialStage, network: str, factors: dict[int, float]) -> list[int]:
    """Multiplies the gradient of ``network`` at some of its updates; returns a counter to advance."""
    optimiser = stage.optimiser if network == "lora" else stage.discriminator_optimiser
    at = [0]
    for parameter in optimiser.parameters:
        parameter.register_hook(lambda g: g * factors.get(at[0], 1.0))
    return at


def weights(stage: AdversarialStage, network: str) -> list[Tensor]:
    optimiser = stage.optimiser if network == "lora" else stage.discriminator_optimiser
    return [p.detach().clone() for p in optimiser.parameters]


@pytest.mark.parametrize(("network", "other"), [("lora", "discriminator"), ("discriminator", "lora")])
@pytest.mark.parametrize("watch", [True, False])
def test_an_outlier_is_skipped_and_counted(start, data, network, other, watch):
    """One network's, while the other one learns on; without watch it is applied: clipping is then all there is."""
    config = dataclasses.replace(WATCHED, watch=watch, steps=30, validate_every=0, learning_rate=1e-6)
    stage = AdversarialStage(start, data, dataclasses.replace(JUDGE, learning_rate=1e-6), config, device=DEVICE)
    at = poisoned(stage, network, {24: 1e8})
    for step in range(26):
        at[0] = step
        before = {name: weights(stage, name) for name in (network, other)}
        values = stage.step(step)
        changed = {
            name: any(not torch.equal(a, b) for a, b in zip(before[name], weights(stage, name), strict=True))
            for name in before
        }
        assert changed[other]
        assert changed[network] == (step != 24 or not watch)
    prefix = "discriminator_" if network == "discriminator" else ""
    if watch:
        assert values[prefix + "skipped_updates"] == 1
        (note,) = [text for text in stage.take_notes() if "skipped" in text]
        assert note.startswith(f"An update of the {'LoRA' if network == 'lora' else network} is skipped")
        assert stage.lora_updates == (25 if network == "lora" else 26)
    else:
        assert stage.lora_updates == 26 and prefix + "skipped_updates" not in values
    assert all(p.grad is None for p in stage.optimiser.parameters + stage.discriminator_optimiser.parameters)


def test_a_gradient_that_is_not_finite_is_skipped_at_once_and_three_go_back(start, data):
    config = dataclasses.replace(WATCHED, steps=9, validate_every=0, ema_decay=0.9)
    stage = AdversarialStage(start, data, JUDGE, config, device=DEVICE)
    at = poisoned(stage, "lora", {0: math.inf, 3: math.nan, 4: math.nan, 5: math.nan})
    scales = []
    for step in range(7):
        at[0] = step
        values = stage.step(step)
        scales.append((values["skipped_updates"], values["roll_backs"], values["weight_scale"]))
        snapshot = lora.snapshot(stage.base)
        assert all(bool(t.isfinite().all()) for t in snapshot.values())
        assert same(snapshot, dict(start.tensors)) == (step in (0, 5)), step
        if step == 5:
            assert same(stage.delivered(), dict(start.tensors)), "the average is of the weights that are gone"
    assert scales == [(1, 0, 1), (1, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 1, 0.5), (4, 1, 0.5)]
    (note,) = [text for text in stage.take_notes() if "goes back" in text]
    assert note.startswith("3 gradients of the LoRA in a row are not finite")


def test_notes_count_updates_as_all_that_shows_a_run_does(start, data, monkeypatch):
    """Warm-up included, of which the first note speaks: a state that is named is that of the step with its score."""
    script = [FINE, better(0.5), SHARP, better(0.4)]
    played = Played(start, data, script, monkeypatch, discriminator_warmup=4, steps=6)
    notes = played.recorder.notes
    step, first = notes[0]
    assert step == 0 and "Up to update 4 the discriminator learns alone" in first
    assert "update 5 is the LoRA's first" in first
    by_score = {record["score"]: record["step"] for record in played.recorder.records if "score" in record}
    assert by_score == {1: 0, 0.5: 6, 0.1: 8, 0.4: 10}
    told = {step: text for step, text in notes if "core" in text}
    assert told[6].startswith("Score 0.5 is below 1 of the start") and "unless a better one follows" in told[6]
    assert "goes back to the best state so far, of update 6 (score 0.5)" in told[8]
    # Nothing can follow the last step, and the state that is delivered is told by the last note alone.
    last, _, delivered = (text for step, text in notes if step == 10)
    assert "below 0.5 of update 6" in last and "deliver" not in last and "follow" not in last
    assert delivered.startswith("The state of update 10 is delivered: score 0.4, against 1 at the start")
    assert not any(re.search(r"\b[Ss]tep \d", text) for _, text in notes), "a number of another count"


def test_the_third_collapse_and_the_end_tell_the_delivered_state_once(start, data, monkeypatch):
    played = Played(start, data, [FINE, better(0.5), SHARP, ALIKE, LOST], monkeypatch, steps=12)
    assert [step for step, text in played.recorder.notes if "is delivered" in text] == [8]


@pytest.mark.parametrize(
    ("script", "changes", "delivered"),
    [
        ([FINE, better(0.5), better(0.4), better(0.45), FINE], {}, 4),
        ([FINE, better(0.9), better(0.8), better(0.7), better(0.6)], {}, 8),
        ([FINE, better(1.5), better(1.2), FINE, better(2.0)], {}, 0),
        ([FINE, better(0.5), SHARP, ALIKE, LOST], {"steps": 12}, 2),
        # The warm-up's steps count, as in all that shows a run.
        ([FINE, better(0.5), SHARP, FINE], {"discriminator_warmup": 4, "steps": 6}, 6),
        ([], {"watch": False}, 8),
    ],
    ids=["a former", "the last", "the start", "ended", "warm-up", "unwatched"],
)
def test_the_last_preview_tells_which_state_it_shows(start, data, monkeypatch, script, changes, delivered):
    played = Played(start, data, script, monkeypatch, preview_every=100, **changes)
    assert played.recorder.delivered == [None, delivered]
    last = played.recorder.records[-1]["step"]
    assert [step for step, _ in played.recorder.shown] == [0, last] and last >= delivered
    if script and delivered < last:
        told = f"state of update {delivered} is delivered" if delivered else "stage 1's weights are delivered"
        assert told in played.texts[-1]


# The measurement


def examiner_config(**changes) -> AdversarialStageConfig:
    return dataclasses.replace(WATCHED, target="x0", **changes)


@pytest.fixture
def base(start):
    base = load_base(start.base, DEVICE)
    lora.attach(base, start)
    return base


def strengthen(base, factor: float) -> None:
    for key, weight in lora._weights(base).items():
        if key.endswith("lora_B.weight"):
            weight.data *= factor


def test_scores_are_relative_to_the_first(base, data):
    """The same LoRA gives the same numbers, from the same noise; another one its distance in units of the first's."""
    examiner = Examiner(data, examiner_config())
    first = examiner.examine(base, 0.7, lambda: None)
    again = examiner.examine(base, 0.7, lambda: None)
    assert first.score == 1.0 and first == again and first.held_out_loss == 0.7
    strengthen(base, 3.0)
    other = examiner.examine(base, None, lambda: None)
    fresh = Examiner(data, examiner_config()).examine(base, None, lambda: None)
    assert other.score != 1.0 and fresh.score == 1.0 and other.held_out_loss is None
    assert dataclasses.replace(other, score=1.0) == fresh


def test_health_is_that_of_the_samples(base, data):
    """Diversity, sharpness and distance by the published measures, of pictures sampled here one by one."""
    config = examiner_config()
    examiner = Examiner(data, config)
    samples, distances = [], []
    training = [data.samples[i] for i in data.training]
    reals = torch.stack([s.mean for s in training])
    space = FeatureSpace.fit(reals)
    for factor in (1.0, 3.0):
        strengthen(base, factor)
        health = examiner.examine(base, None, lambda: None)
        shown = [data.samples[i] for i in data.held_out + drawn(data.training, 2, "watch/captions")]
        samples = [
            sampler.sample(
                base, data.prompts[s.prompt].prompt_embeds, data.prompts[s.prompt].pooled_prompt_embeds,
                height=4, width=4, steps=2, seeds=[2**32 + number], guidance=config.guidance,
            )
            for number, s in enumerate(shown)
        ]  # fmt: skip
        fake = torch.cat(samples)
        sides = [latent_metrics.patches(space.standardised(x), centred=True) for x in (fake, reals)]
        distances.append(
            latent_metrics.sliced_wasserstein(*sides) + latent_metrics.spectrum_distance(fake, reals)
        )
        assert health.diversity == pytest.approx(latent_metrics.diversity(space(fake)), rel=1e-4)
        ratio = latent_metrics.high_frequency_ratio(fake, reals).log().mean().exp().item()
        assert health.high_frequency == pytest.approx(ratio, rel=1e-4)
    assert health.score == pytest.approx(distances[1] / distances[0], rel=1e-4)
    assert examiner.diversity_real == pytest.approx(latent_metrics.diversity(space(reals)))


def test_the_watch_samples_with_its_sampler_and_counts_what_that_asks_for(base, data, monkeypatch):
    calls, polls = [], []
    sample = sampler.sample

    def spy(*args, **given):
        calls.append(given["solver"])
        return sample(*args, **given)

    monkeypatch.setattr(health.sampler, "sample", spy)
    config = dataclasses.replace(examiner_config(), target_steps=3, watch_sampler="heun", batch_size=1)
    examiner = Examiner(data, config)
    examiner.examine(base, None, lambda: polls.append(None))
    assert set(calls) == {"heun"}
    assert len(polls) == examiner.evaluations == 5 * config.watch_pictures


@pytest.mark.parametrize("captions", [1, 6])
def test_the_numbers_do_not_depend_on_the_batch(base, captions):
    """One caption for all pictures would otherwise be sampled with in one pass."""
    data = make_data(count=12, held_out=4)
    samples = tuple(dataclasses.replace(s, prompt=s.prompt % captions) for s in data.samples)
    data = dataclasses.replace(data, samples=samples)
    found, largest = [], []
    for batch_size in (1, 2, 4):
        examiner = Examiner(data, examiner_config(batch_size=batch_size, watch_pictures=6))
        sizes = []
        hook = base.transformer.x_embedder.register_forward_pre_hook(lambda _, args, s=sizes: s.append(len(args[0])))
        found.append(examiner._sample(base, examiner._samplers[0], lambda: None))
        hook.remove()
        largest.append(max(sizes))
    assert all(size <= most for size, most in zip(largest, (1, 2, 4), strict=True))
    if captions == 1:
        assert largest == [1, 2, 4]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)


def test_captions_and_reals_are_drawn_from_the_whole_folder(base, monkeypatch):
    """A folder is often sorted, and then its first pictures stand for nothing but themselves."""
    monkeypatch.setattr(health, "MOST_REALS", 12)
    data = make_data(count=80, held_out=40)
    means = [float(sample.mean.sum()) for sample in data.samples]
    for count, held_out in ((8, 40), (50, 40), (50, 0)):
        kept = dataclasses.replace(data, held_out=data.held_out[:held_out])
        examiner = Examiner(kept, examiner_config(watch_pictures=count))
        assert len(examiner._reals) == 12
        places = [means.index(float(real.sum())) for real in examiner._reals]
        of = kept.held_out or kept.training
        assert set(places) <= set(of) and max(places) >= of[len(of) // 2] and places != list(of[:12])
        captions = [int(prompt.caption.split()[1]) for prompt in examiner._samplers[0].prompts]
        assert len(set(captions)) == count, "a caption comes twice before all have come"
        assert len(set(captions) & set(kept.held_out)) == min(count, held_out)
        rest = sorted(set(captions) - set(kept.held_out))
        assert not rest or max(rest) >= kept.training[len(kept.training) // 2]
        assert captions == [
            int(p.caption.split()[1])
            for p in Examiner(kept, examiner_config(watch_pictures=count))._samplers[0].prompts
        ]


@pytest.mark.parametrize("few_step_guidance", [0.0, 4.0])
def test_both_samplers_are_sampled_with(base, data, monkeypatch, few_step_guidance):
    """Each with its own steps and sign; the worse diversity and sharpness count, and the mean relative score."""
    data = with_phrase(data) if not few_step_guidance else data
    calls, polls = [], []
    sample = sampler.sample

    def spy(base, prompt_embeds, pooled, **given):
        calls.append((given["steps"], given["guidance"], prompt_embeds, len(given["seeds"])))
        return sample(base, prompt_embeds, pooled, **given)

    monkeypatch.setattr(health.sampler, "sample", spy)
    config = dataclasses.replace(
        WATCHED, target="two_samplers", target_steps=3, guidance=1.5, few_step_guidance=few_step_guidance
    )
    examiner = Examiner(data, config)
    examiner.examine(base, None, lambda: polls.append(None))
    steps = Counter()
    for number, guidance, embeds, count in calls:
        few = number == 3
        assert guidance == ((few_step_guidance or 1.5) if few else 1.5)
        prompts = data.few_step_prompts if few and data.few_step_prompts else data.prompts
        assert any(torch.equal(embeds, p.prompt_embeds) for p in prompts)
        steps[number] += count
    assert steps == {3: 4, 25: 4} and len(polls) == sum(number for number, *_ in calls)

    scripted = {
        "_distance": iter([2.0, 4.0, 1.0, 8.0]),
        "diversity": iter([3.0, 5.0, 6.0, 4.0]),
        "ratio": iter([1.0, 1.0, 1.2, 0.5]),
    }
    monkeypatch.setattr(examiner, "_distance", lambda _: next(scripted["_distance"]))
    monkeypatch.setattr(examiner, "_sample", lambda *_: torch.randn(4, 16, 4, 4))
    monkeypatch.setattr(latent_metrics, "diversity", lambda _: next(scripted["diversity"]))
    monkeypatch.setattr(latent_metrics, "high_frequency_ratio", lambda *_: torch.tensor([next(scripted["ratio"])]))
    examiner.first_scores = []
    first, second = (examiner.examine(base, None, lambda: None) for _ in range(2))
    assert (first.score, first.diversity, first.high_frequency) == (1.0, 3.0, 1.0)
    assert second.score == pytest.approx((0.5 + 2.0) / 2) and second.diversity == 4.0
    assert second.high_frequency == pytest.approx(0.5), "half as much is further off than a fifth more"


@pytest.mark.parametrize("held_out", [0, 1, 7])
def test_any_number_of_held_out_pictures_will_do(base, held_out):
    """Few of them are shown, but training pictures are compared with."""
    data = make_data(held_out=held_out, count=12)
    examiner = Examiner(data, examiner_config())
    assert examiner.possible and len(examiner._reals) == 12 - held_out
    measured = examiner.examine(base, None, lambda: None)
    assert measured.score == 1.0 and not measured.not_finite()
    many = Examiner(make_data(held_out=8, count=12), examiner_config())
    assert len(many._reals) == 8


def test_one_training_picture_cannot_be_compared_with(start):
    """No measurement is possible; the stage runs without, and delivers its last weights."""
    data = make_data(count=2, held_out=1)
    assert not Examiner(data, examiner_config()).possible
    stage = AdversarialStage(start, data, JUDGE, dataclasses.replace(WATCHED, steps=2), device=DEVICE)
    result = run(stage, Recorder(), None)
    assert all("score" not in r for r in result.log.records)
    assert not same(result.lora.tensors, dict(start.tensors))


def test_samples_that_are_not_finite_are_no_measurement(base, data):
    examiner = Examiner(data, examiner_config())
    for weight in lora.parameters(base):
        weight.data.fill_(math.nan)
    measured = examiner.examine(base, 0.5, lambda: None)
    assert measured.not_finite() == ["diversity", "high_frequency", "score"]


def test_pictures_of_another_size_are_left_out(base):
    """The most common size is compared; nothing is stacked that does not fit."""
    data, other = make_data(count=8), make_data(count=3, side=6, held_out=0)
    both = dataclasses.replace(data, samples=data.samples + other.samples)
    examiner = Examiner(both, examiner_config())
    assert examiner._reals.shape == (6, 16, 4, 4)
    assert not examiner.examine(base, None, lambda: None).not_finite()


# Masks


def half_masked(data, beyond: float):
    """Every picture masked out on its right, where all its values are raised by ``beyond``."""
    mask = torch.ones(1, *data.samples[0].shape[1:])
    mask[..., mask.shape[2] // 2 :] = 0.0
    samples = (dataclasses.replace(s, mean=s.mean + beyond * (1 - mask), mask=mask) for s in data.samples)
    return dataclasses.replace(data, samples=tuple(samples))


def test_what_lies_beyond_the_masks_is_not_compared(base):
    """Neither of reals nor of samples: whatever stands there, health is the same."""
    plain = make_data(count=12, side=8)
    examiners = [Examiner(half_masked(plain, beyond), examiner_config()) for beyond in (0.0, 30.0)]
    assert examiners[0].diversity_real == examiners[1].diversity_real
    first, second = (examiner.examine(base, None, lambda: None) for examiner in examiners)
    assert first == second
    samples = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    painted = samples.clone()
    painted[..., 4:] = 50.0
    found = []
    for given in (samples, painted):
        examiners[0]._sample = lambda *_, given=given: given
        found.append(examiners[0].examine(base, None, lambda: None))
    assert found[0] == found[1]
    unmasked = Examiner(plain, examiner_config())
    unmasked.first_scores = list(examiners[0].first_scores)
    unmasked._sample = lambda *_: samples
    assert unmasked.examine(base, None, lambda: None).high_frequency != pytest.approx(found[0].high_frequency, rel=1e-3)


def test_samples_come_in_the_order_of_the_pictures_and_their_masks(base):
    """Also where pictures share a caption, by which they are sampled: each is filled beyond its own mask."""
    plain = make_data(count=12, side=8)
    shared = dataclasses.replace(
        plain, samples=tuple(dataclasses.replace(s, prompt=number % 2) for number, s in enumerate(plain.samples))
    )
    examiner = Examiner(shared, examiner_config())
    (wanted,) = examiner._samplers
    assert len({id(prompt) for prompt in wanted.prompts}) < len(wanted.prompts)
    together = examiner._sample(base, wanted, lambda: None)
    for number, prompt in enumerate(wanted.prompts):
        seed = _FIRST_SEED + number
        alone = sampler.sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=8, width=8, steps=wanted.steps,
            seeds=[seed], guidance=wanted.guidance,
        )  # fmt: skip
        torch.testing.assert_close(together[number], alone[0].cpu(), rtol=1e-3, atol=1e-4)


def test_masks_of_ones_are_none(base):
    plain = make_data(count=12, side=8)
    ones = dataclasses.replace(
        plain, samples=tuple(dataclasses.replace(s, mask=torch.ones(1, 8, 8)) for s in plain.samples)
    )
    found = [Examiner(data, examiner_config()).examine(base, None, lambda: None) for data in (plain, ones)]
    assert found[0] == found[1]


def test_masked_pictures_are_told_of(start):
    texts = {}
    for beyond in (None, 0.0):
        data = make_data(count=12, side=8) if beyond is None else half_masked(make_data(count=12, side=8), beyond)
        stage = AdversarialStage(start, data, JUDGE, WATCHED, device=DEVICE)
        texts[beyond] = [text for text in stage.take_notes() if "masks" in text]
    assert texts[None] == [] and len(texts[0.0]) == 1 and texts[0.0][0].startswith("12 pictures have masks")


def test_the_reals_spectrum_is_computed_once(base, data, monkeypatch):
    computed = []
    radial_spectrum = latent_metrics.radial_spectrum
    monkeypatch.setattr(latent_metrics, "radial_spectrum", lambda x: computed.append(len(x)) or radial_spectrum(x))
    examiner = Examiner(data, examiner_config())
    assert computed == [len(examiner._reals)]
    for _ in range(2):
        examiner.examine(base, None, lambda: None)
    assert computed[1:] == [4] * 4, "of the samples alone, for either measure"
