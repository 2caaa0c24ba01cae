"""The watch over gradients, on streams of norms whose answer is known."""

from __future__ import annotations

import math
import random

import pytest

from fluxduel.training.stages.gradient_watch import GradientWatch


def watch_of(norms):
    watch = GradientWatch("LoRA")
    for norm in norms:
        watch.outlier(norm)
    return watch


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
    assert "An update of the LoRA is skipped" in line and "norm 12" in line and "limit 10" in line
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


def test_after_a_roll_back_the_skips_of_the_weights_before_do_not_count():
    """Five were skipped before it, and five more after it ask for nothing."""
    watch = watch_of([1.0] * 30 + [100.0] * 5)
    watch.forget()
    for norm in [1.0] * 25 + [100.0] * 5:
        watch.outlier(norm)
    assert watch.skipped == 10 and watch.take_request() == ""
