"""The watch over stage 2 on streams of numbers whose answer is known."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from fluxduel.training.stages.monitor import Balance, Checkups, GradientWatch, Health, Monitor

START = Health(held_out_loss=0.9, diversity=0.75, high_frequency=0.4, score=127.0)
GOOD = Health(held_out_loss=0.91, diversity=0.95, high_frequency=1.08, score=5.0)


def watch_of(norms):
    watch = GradientWatch("LoRA")
    for norm in norms:
        watch.outlier(norm)
    return watch


def balance_of(accuracy, updates):
    balance = Balance()
    for _ in range(updates):
        balance.update(accuracy)
    return balance


def checkups(diversity_real=None, **start):
    made = Checkups()
    made.begin(replace(START, **start), diversity_real)
    return made


def monitor():
    made = Monitor()
    made.checkups.begin(START)
    return made


# Gradients


@pytest.mark.parametrize("deviation", [0.02, 0.3, 1.0])
def test_lognormal_norms_are_no_outliers(deviation):
    false_alarms = updates = 0
    for seed in range(10):
        noise = random.Random(seed)
        watch = watch_of(noise.lognormvariate(0, deviation) for _ in range(2000))
        false_alarms, updates = false_alarms + watch.skipped, updates + watch.updates
    assert updates == 20_000
    assert false_alarms / updates < 1e-3


def test_a_spike_is_skipped_and_said():
    noise = random.Random(0)
    watch = watch_of(noise.lognormvariate(math.log(0.4), 0.2) for _ in range(100))
    assert watch.skipped == 0 and not watch.lines
    assert watch.outlier(30 * 0.4)
    assert watch.skipped == 1
    (line,) = watch.lines
    assert "Update 101 of the LoRA" in line and "norm 12" in line and "limit 10" in line and "skipped" in line
    assert not watch.outlier(0.4)


def test_a_spike_does_not_become_the_norm():
    """What was skipped is not part of the median: the fifth spike is as far out as the first."""
    watch = watch_of([1.0] * 30)
    assert [watch.outlier(30.0) for _ in range(5)] == [True] * 5


def test_wild_norms_at_the_start_hide_no_spike():
    """A mean and deviation would put 30 at 1.2 deviations; the median is not moved."""
    assert watch_of([100.0] * 9 + [1.0] * 30).outlier(30.0)


def test_slow_drift_is_followed():
    noise = random.Random(0)
    norms = [3 ** (step / 300) * noise.lognormvariate(0, 0.05) for step in range(300)]
    assert max(norms) > 2.7 * norms[0]
    assert watch_of(norms).skipped == 0
    # 30 times is far beyond any limit at once, and no outlier when it comes over 3000 updates.
    assert watch_of(30 ** (step / 3000) for step in range(3000)).skipped == 0


def test_only_after_twenty_updates():
    assert not watch_of([1.0] * 19).outlier(1000.0)
    assert watch_of([1.0] * 20).outlier(1000.0)


def test_norms_that_hardly_vary_have_room():
    """The least deviation of 0.1 puts the limit at exp(10 x 0.1) = 2.718 medians."""
    assert not watch_of([1.0] * 50).outlier(2.70)
    assert watch_of([1.0] * 50).outlier(2.74)


def test_a_small_norm_is_no_outlier():
    assert not watch_of([1.0] * 50).outlier(1e-6)


def test_no_gradient_says_nothing():
    """A paused loss neither trips the watch nor enters the median."""
    watch = watch_of([0.0] * 100 + [1.0] * 20)
    assert watch.skipped == 0
    assert watch.outlier(30.0)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_skipped_from_the_first_update(norm):
    watch = GradientWatch("discriminator")
    assert watch.outlier(norm)
    assert str(norm) in watch.lines[0] and "discriminator" in watch.lines[0]


def test_three_in_a_row_that_are_not_finite_ask_for_a_roll_back():
    watch = watch_of([math.nan, math.nan, 1.0, math.nan, math.nan])
    assert watch.take_request() == ""
    watch.outlier(math.inf)
    request = watch.take_request()
    assert "3 gradients of the LoRA" in request and "limit 3" in request
    assert watch.take_request() == ""


def test_six_skips_in_fifty_ask_for_a_roll_back():
    watch = watch_of([1.0] * 50 + [100.0] * 5)
    assert watch.take_request() == ""
    watch.outlier(100.0)
    request = watch.take_request()
    assert "6 of the last 50" in request and "limit 5" in request


def test_skips_spread_wider_than_the_window_are_single_samples():
    """One skip in ten is never more than five in fifty; one in eight is."""
    assert watch_of(([1.0] * 9 + [100.0]) * 30).take_request() == ""
    assert "of the last 50" in watch_of(([1.0] * 7 + [100.0]) * 30).take_request()


def test_after_a_roll_back_the_norms_are_learnt_anew():
    watch = watch_of([1.0] * 50 + [100.0] * 6)
    watch.forget()
    assert watch.take_request() == ""
    assert not any(watch.outlier(100.0) for _ in range(100))


# Balance


def test_the_average_is_debiased():
    assert Balance().average == 0.5
    for updates in (1, 5, 100):
        assert balance_of(0.7, updates).average == pytest.approx(0.7)
        assert balance_of(0.7, updates).long_average == pytest.approx(0.7)
    mixed = Balance()
    for accuracy in (0.0, 1.0):
        mixed.update(accuracy)
    assert mixed.average == pytest.approx((0.98 * 0 + 1) / (0.98 + 1))


@pytest.mark.parametrize(
    ("accuracy", "updates"),
    [(0.50, 3), (0.549, 3), (0.551, 2), (0.75, 2), (0.949, 2), (0.951, 0), (1.0, 0)],
)
def test_the_number_of_discriminator_updates(accuracy, updates):
    assert balance_of(accuracy, 30).discriminator_updates(2) == updates


def test_a_few_pairs_do_not_change_the_ratio():
    assert balance_of(1.0, 19).discriminator_updates(1) == 1
    assert balance_of(1.0, 20).discriminator_updates(1) == 0


def test_the_discriminator_resumes_when_the_lora_has_caught_up():
    balance = balance_of(1.0, 300)
    assert balance.discriminator_updates(1) == 0
    for _ in range(10):
        balance.update(0.6)
    assert balance.discriminator_updates(1) == 1
    assert "1.000 (limit 0.95)" in balance.lines[0] and "not updated" in balance.lines[0]
    assert len(balance.lines) == 1


def test_lag_is_said_once_for_an_episode():
    balance = balance_of(0.53, 30)
    (line,) = balance.lines
    assert "0.530 (limit 0.55)" in line and "one update more" in line
    for accuracy in [0.57] * 100 + [0.5] * 100:
        balance.update(accuracy)
    assert len(balance.lines) == 1
    for accuracy in [0.8] * 100 + [0.5] * 300:
        balance.update(accuracy)
    assert sum("lags" in line for line in balance.lines) == 2


@pytest.mark.parametrize("accuracy", [0.55, 0.6, 0.65, 0.7, 0.75])
@pytest.mark.parametrize("pairs", [4, 16])
def test_what_is_normal_for_relativistic_losses_is_no_alarm(accuracy, pairs):
    false_pauses = 0
    for seed in range(10):
        noise, balance = random.Random(seed), Balance()
        for _ in range(1000):
            balance.update(sum(noise.random() < accuracy for _ in range(pairs)) / pairs)
            false_pauses += not balance.knows
            assert balance.take_request() == ""
            assert balance.discriminator_updates(1) > 0
        if accuracy > 0.65:
            assert not balance.lines
    # At 0.55 with four pairs an average may stray to 0.52; a per cent of the updates without adversarial loss is cheap.
    assert false_pauses <= (100 if accuracy == 0.55 and pairs == 4 else 0)


def test_a_discriminator_that_guesses_pauses_the_adversarial_loss():
    balance = balance_of(0.5, 118)
    assert balance.knows
    balance.update(0.5)
    assert not balance.knows
    line = balance.lines[-1]
    assert "0.500 (limit 0.52, for 100 updates)" in line and "paused" in line and "noise" in line
    assert balance.scalars()["discriminator_knows"] == 0.0


def test_just_above_guessing_is_no_pause():
    assert balance_of(0.521, 1000).knows
    assert not balance_of(0.519, 1000).knows


def test_the_adversarial_loss_resumes_once_the_discriminator_sees():
    balance = balance_of(0.5, 200)
    for _ in range(300):
        balance.update(0.545)
    assert not balance.knows
    for _ in range(300):
        balance.update(0.56)
    assert balance.knows
    assert "0.550 (limit 0.55)" in balance.lines[-1] and "resumed" in balance.lines[-1]


def test_a_noisy_guess_is_found():
    for seed in range(10):
        noise, balance = random.Random(seed), Balance()
        paused = 0
        for _ in range(1000):
            balance.update(sum(noise.random() < 0.5 for _ in range(4)) / 4)
            paused += not balance.knows
        assert paused > 200


def test_the_warm_up_only_moves_the_averages():
    balance = Balance()
    for accuracy in [0.5] * 500 + [1.0] * 500:
        balance.update(accuracy, warmup=True)
    assert balance.knows and balance.take_request() == "" and not balance.lines
    assert balance.average > 0.99


def test_a_discriminator_that_has_won_asks_for_less_weight():
    balance = balance_of(0.985, 218)
    assert balance.take_request() == ""
    balance.update(0.985)
    request = balance.take_request()
    assert "0.985 (limit 0.98, for 200 updates)" in request
    assert balance.take_request() == ""
    for _ in range(199):
        balance.update(0.985)
    assert balance.take_request() == ""
    balance.update(0.985)
    assert balance.take_request() != ""


def test_just_below_winning_asks_for_nothing():
    assert balance_of(0.979, 1000).take_request() == ""


@pytest.mark.parametrize("accuracy", [-0.01, 1.01, math.nan])
def test_an_accuracy_out_of_range_is_refused(accuracy):
    with pytest.raises(ValueError, match=str(accuracy)):
        Balance().update(accuracy)


def check_overfit(held_out, at_limit, checks):
    """Training pictures at 2, fakes at -2: a gap of 4."""
    balance = Balance()
    for _ in range(checks):
        balance.check_overfit(2.0, held_out, -2.0, at_limit)
    return balance


def test_overfit_at_the_limit_of_augmentation_is_said_once():
    balance = check_overfit(-1.3, True, 10)
    (line,) = balance.lines
    assert "0.82" in line and "limit 0.8," in line and "3 checks" in line and "Nothing is changed" in line
    assert balance.scalars()["discriminator_overfit"] == pytest.approx(3.3 / 4)


@pytest.mark.parametrize(("held_out", "at_limit", "checks"), [(-1.1, True, 10), (-1.3, False, 10), (-1.3, True, 2)])
def test_no_overfit_below_each_threshold(held_out, at_limit, checks):
    assert not check_overfit(held_out, at_limit, checks).lines


def test_without_a_gap_nothing_is_learnt_by_heart():
    for train_real, held_out_real in ((0.0, -1.0), (-1.0, 0.0)):
        balance = Balance()
        for _ in range(5):
            balance.check_overfit(train_real, held_out_real, 0.0, True)
        assert not balance.lines


# Checkups


def test_a_better_score_is_the_best():
    watched = checkups()
    verdict = watched.examine(100, GOOD)
    assert verdict.kind == "best" and watched.best_update == 100
    assert "score 5 is below 127 of the start" in verdict.lines[0] and "kept" in verdict.lines[0]
    assert watched.examine(200, replace(GOOD, score=5.5)).kind == "fine"
    assert watched.examine(300, replace(GOOD, score=5.0)).kind == "fine"
    assert watched.examine(400, replace(GOOD, score=4.0)).kind == "best"
    assert watched.best_update == 400 and watched.weight_scale == 1.0


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (dict(held_out_loss=0.9 * 1.049), "fine"),
        (dict(held_out_loss=0.9 * 1.051), "warn"),
        (dict(held_out_loss=0.9 * 1.099), "warn"),
        (dict(held_out_loss=0.9 * 1.101), "roll back"),
        (dict(held_out_loss=0.5), "fine"),
        (dict(held_out_loss=None), "fine"),
        (dict(diversity=0.75 * 0.801), "fine"),
        (dict(diversity=0.75 * 0.799), "warn"),
        (dict(diversity=0.75 * 0.701), "warn"),
        (dict(diversity=0.75 * 0.699), "roll back"),
        (dict(diversity=75.0), "fine"),
        (dict(high_frequency=1.29), "fine"),
        (dict(high_frequency=1.31), "warn"),
        (dict(high_frequency=1.49), "warn"),
        (dict(high_frequency=1.51), "roll back"),
        (dict(high_frequency=0.1), "fine"),
        (dict(held_out_loss=math.nan), "roll back"),
        (dict(diversity=math.nan), "roll back"),
        (dict(high_frequency=math.inf), "roll back"),
        (dict(score=math.nan), "roll back"),
        (dict(score=-math.inf), "roll back"),
    ],
)
def test_each_limit_of_health(change, kind):
    watched = checkups()
    verdict = watched.examine(100, replace(GOOD, **({"score": 200.0} | change)))
    assert verdict.kind == kind
    assert watched.weight_scale == (1.0 if kind == "fine" else 0.5)
    assert bool(verdict.lines) == (kind != "fine")


def test_a_warning_says_what_why_and_what_is_done():
    watched = checkups()
    (line,) = watched.examine(100, replace(GOOD, held_out_loss=0.9 * 1.06, high_frequency=1.4, score=200.0)).lines
    assert "0.954 is 1.06 of the start's (limit 1.05)" in line
    assert "1.4 of real pictures' (limit 1.3)" in line
    assert "lowered to 0.5" in line and "so that" in line
    (line,) = watched.examine(200, replace(GOOD, diversity=0.75 * 0.75, score=200.0)).lines
    assert "is 0.75 of the start's (limit 0.8)" in line and "lowered to 0.25" in line


def test_a_start_that_is_over_sharp_moves_the_limits():
    """1.6 x 1.15 = 1.84 is then the limit of a warning, and 1.84 x 1.5 / 1.3 = 2.12 that of a collapse."""
    for sharpness, kind in ((1.83, "fine"), (1.85, "warn"), (2.11, "warn"), (2.13, "roll back")):
        health = replace(GOOD, high_frequency=sharpness, score=200.0)
        assert checkups(high_frequency=1.6).examine(100, health).kind == kind


def test_a_fall_of_diversity_to_that_of_real_pictures_is_none():
    """Real at 0.6 of the start: it warns below that, and collapses at 7/8 of it."""
    for diversity, kind in ((0.601, "fine"), (0.599, "warn"), (0.526, "warn"), (0.524, "roll back")):
        health = replace(GOOD, diversity=diversity, score=200.0)
        assert checkups(diversity_real=0.6, diversity=1.0).examine(100, health).kind == kind
    # Real pictures more diverse than the start excuse nothing.
    assert checkups(diversity_real=1.2).examine(100, replace(GOOD, diversity=0.59, score=200.0)).kind == "warn"


def test_a_state_may_be_the_best_and_be_warned_of():
    watched = checkups()
    verdict = watched.examine(100, replace(GOOD, held_out_loss=0.9 * 1.08))
    assert verdict.kind == "best" and len(verdict.lines) == 2
    assert watched.best_update == 100 and watched.weight_scale == 0.5
    assert watched.examine(200, replace(GOOD, high_frequency=1.44, score=4.0)).kind == "best"


@pytest.mark.parametrize("change", [dict(high_frequency=1.46), dict(diversity=0.59)])
def test_the_best_score_of_an_unacceptable_state_is_not_kept(change):
    watched = checkups()
    verdict = watched.examine(100, replace(GOOD, **change))
    assert verdict.kind == "warn" and watched.best_update == 0
    assert "not kept" in verdict.lines[0] and "limit" in verdict.lines[0]


def test_the_weight_recovers_with_health_up_to_one():
    watched = checkups()
    watched.warn(10, "the discriminator has won")
    scales = []
    for update in range(100, 1000, 100):
        verdict = watched.examine(update, replace(GOOD, score=200.0))
        assert verdict.kind == "fine"
        scales.append(watched.weight_scale)
    assert scales[:7] == pytest.approx([0.5 * 1.1**n for n in range(1, 8)])
    assert scales[7:] == [1.0, 1.0]
    assert not verdict.lines
    assert "raised to 0.55" in watched.lines[1]


def test_two_roll_backs_then_the_end():
    watched = checkups()
    bad = replace(GOOD, high_frequency=2.0)
    first = watched.examine(100, bad)
    assert first.kind == "roll back" and watched.weight_scale == 0.5 and watched.best_update == 0
    assert "2 of real" in first.lines[0] and "limit 1.5" in first.lines[0] and "the start" in first.lines[0]
    assert watched.examine(200, GOOD).kind == "best"
    second = watched.examine(300, replace(GOOD, score=math.nan))
    assert second.kind == "roll back" and "of update 200 (score 5)" in second.lines[0]
    assert watched.weight_scale == pytest.approx(0.5 * 1.1 * 0.5)
    assert watched.examine(400, replace(GOOD, score=6.0)).kind == "fine"
    third = watched.examine(500, replace(GOOD, held_out_loss=2.0))
    assert third.kind == "stop" and watched.stopped and watched.roll_backs == 2
    assert "limit 3" in third.lines[0] and "the stage ends" in third.lines[0] and "update 200" in third.lines[0]
    assert "update 200 is delivered: score 5, against 127" in watched.conclude()


def test_without_a_better_state_the_start_is_delivered():
    watched = checkups()
    watched.examine(100, replace(GOOD, score=128.0))
    line = watched.conclude()
    assert "did not improve on stage 1 by the held-out score" in line and "127" in line
    assert "stage 1's weights are delivered" in line and watched.lines[-1] == line


def test_a_score_may_be_negative():
    """An unbiased distance is, at times."""
    watched = checkups(score=0.01)
    assert watched.examine(100, replace(GOOD, score=-0.01)).kind == "best"


@pytest.mark.parametrize("change", [dict(score=math.nan), dict(diversity=0.0), dict(held_out_loss=-1.0)])
def test_a_start_that_is_no_reference_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        checkups(**change)


def test_without_a_start_there_is_nothing_to_compare_with():
    with pytest.raises(RuntimeError, match="begin"):
        Checkups().examine(100, GOOD)
    assert Checkups().collapse(100, "gradients").kind == "roll back"


# All together


def test_requests_reach_the_one_who_decides():
    watched = monitor()
    for norm in [1.0] * 50 + [100.0] * 6:
        watched.lora.outlier(norm)
    verdict = watched.after_update(56)
    assert verdict.kind == "roll back" and "6 of the last 50" in verdict.lines[0]
    assert watched.adversarial_scale == 0.5
    assert watched.after_update(57).kind == "fine"
    assert not watched.lora.outlier(100.0)
    for _ in range(250):
        watched.balance.update(1.0)
    verdict = watched.after_update(58)
    assert verdict.kind == "warn" and "has won" in verdict.lines[0] and "lowered to 0.25" in verdict.lines[0]


def test_a_roll_back_at_a_checkup_forgets_the_norms():
    watched = monitor()
    for _ in range(50):
        watched.lora.outlier(1.0)
        watched.discriminator.outlier(1.0)
    watched.examine(100, replace(GOOD, diversity=0.1))
    assert not watched.lora.outlier(100.0) and not watched.discriminator.outlier(100.0)


def test_a_blind_discriminator_has_no_weight():
    watched = monitor()
    for _ in range(200):
        watched.balance.update(0.5)
    assert watched.adversarial_scale == 0.0 and watched.checkups.weight_scale == 1.0


def test_every_line_is_taken_once():
    watched = monitor()
    watched.lora.outlier(math.nan)
    verdict = watched.examine(100, GOOD)
    assert watched.take_lines() == watched.lines == [watched.lines[0], *verdict.lines]
    assert watched.take_lines() == []
    watched.checkups.conclude()
    assert len(watched.take_lines()) == 1


def test_scalars_are_finite_floats():
    for watched in (Monitor(), monitor()):
        watched.lora.outlier(math.nan)
        watched.discriminator.outlier(math.inf)
        values = watched.scalars()
        assert all(type(value) is float and math.isfinite(value) for value in values.values())
        assert values["skipped_updates"] == values["discriminator_skipped_updates"] == 1.0
        assert values["pair_accuracy_average"] == 0.5 and values["weight_scale"] == 1.0


def drive(watched, updates):
    """A stormy run, drawn from the number of the update alone; returns every decision and scalar."""
    seen = []
    for update in updates:
        draw = random.Random(update)
        spike = 100.0 if draw.random() < 0.08 else math.nan if draw.random() < 0.01 else 1.0
        # Phases of a discriminator that guesses, sees and has won.
        accuracy = (0.5, 0.7, 1.0)[update // 400 % 3]
        watched.balance.update(accuracy)
        skipped = (watched.lora.outlier(spike * draw.lognormvariate(0, 0.3)), watched.discriminator.outlier(spike))
        verdict = watched.after_update(update)
        if update % 50 == 0:
            watched.balance.check_overfit(1.0, -0.9, -1.0, True)
            sharpness = draw.uniform(0.8, 1.4)
            verdict = watched.examine(update, replace(GOOD, high_frequency=sharpness, score=draw.uniform(1, 200)))
        seen.append((skipped, verdict, watched.adversarial_scale, watched.take_lines(), watched.scalars()))
        seen.append(watched.balance.discriminator_updates(1))
    return seen


@pytest.mark.parametrize("pause", [3, 115, 199, 210, 333, 700])
def test_a_restored_monitor_decides_the_same(pause):
    through = monitor()
    drive(through, range(pause))
    text = json.dumps(through.state(), allow_nan=False)
    restored = Monitor()
    restored.restore(json.loads(text))
    assert drive(restored, range(pause, 1200)) == drive(through, range(pause, 1200))
    assert restored.state() == through.state()
    kinds = " ".join(through.lines)
    assert all(word in kinds for word in ("skipped", "goes back", "paused", "resumed", "has won", "by heart", "kept"))


def test_a_monitor_without_a_start_is_restored_too():
    restored = Monitor()
    restored.restore(json.loads(json.dumps(Monitor().state(), allow_nan=False)))
    restored.checkups.begin(START)
    assert restored.examine(100, GOOD).kind == "best"
