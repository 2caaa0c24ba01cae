"""The watch over the discriminator, on streams of accuracies whose answer is known."""

from __future__ import annotations

import math
import random

import pytest

from fluxduel.training.stages.balance import Balance


def balance_of(accuracy, updates):
    balance = Balance()
    for _ in range(updates):
        balance.update(accuracy)
    return balance


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
