"""The watch over the LoRA, on measurements whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fluxduel.training.stages.checkups import Checkups
from fluxduel.training.stages.watch import Health

START = Health(held_out_loss=0.9, diversity=0.75, high_frequency=0.4, score=127.0)
GOOD = Health(held_out_loss=0.91, diversity=0.95, high_frequency=1.08, score=5.0)


def checkups(diversity_real=None, **start):
    made = Checkups()
    made.begin(replace(START, **start), diversity_real)
    return made


def test_a_better_score_is_the_best():
    watched = checkups()
    verdict = watched.examine(100, GOOD)
    assert verdict.kind == "best" and watched.best_step == 100
    assert "Score 5 is below 127 of the start" in verdict.lines[0] and "kept" in verdict.lines[0]
    assert watched.examine(200, replace(GOOD, score=5.5)).kind == "fine"
    assert watched.examine(300, replace(GOOD, score=5.0)).kind == "fine"
    assert watched.examine(400, replace(GOOD, score=4.0)).kind == "best"
    assert watched.best_step == 400 and watched.weight_scale == 1.0


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


def test_a_fall_of_diversity_counts_from_real_pictures_where_they_are_less_diverse():
    """Real at 0.6 of the start: it warns below 0.7 of that, and collapses at 7/8 of it."""
    for diversity, kind in ((0.421, "fine"), (0.419, "warn"), (0.368, "warn"), (0.367, "roll back")):
        health = replace(GOOD, diversity=diversity, score=200.0)
        assert checkups(diversity_real=0.6, diversity=1.0).examine(100, health).kind == kind
    # Real pictures more diverse than the start excuse nothing.
    assert checkups(diversity_real=1.2).examine(100, replace(GOOD, diversity=0.59, score=200.0)).kind == "warn"


def test_a_state_may_be_the_best_and_be_warned_of():
    watched = checkups()
    verdict = watched.examine(100, replace(GOOD, held_out_loss=0.9 * 1.08))
    assert verdict.kind == "best" and len(verdict.lines) == 2
    assert watched.best_step == 100 and watched.weight_scale == 0.5
    assert watched.examine(200, replace(GOOD, high_frequency=1.44, score=4.0)).kind == "best"


@pytest.mark.parametrize("change", [dict(high_frequency=1.46), dict(diversity=0.59)])
def test_the_best_score_of_an_unacceptable_state_is_not_kept(change):
    watched = checkups()
    verdict = watched.examine(100, replace(GOOD, **change))
    assert verdict.kind == "warn" and watched.best_step == 0
    assert "not kept" in verdict.lines[0] and "limit" in verdict.lines[0]


def test_the_weight_recovers_with_health_up_to_one():
    watched = checkups()
    watched.warn("the discriminator has won")
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
    assert first.kind == "roll back" and watched.weight_scale == 0.5 and watched.best_step == 0
    assert "2 of real" in first.lines[0] and "limit 1.5" in first.lines[0] and "the start" in first.lines[0]
    assert watched.examine(200, GOOD).kind == "best"
    second = watched.examine(300, replace(GOOD, score=math.nan))
    assert second.kind == "roll back" and "of update 200 (score 5)" in second.lines[0]
    assert watched.weight_scale == pytest.approx(0.5 * 1.1 * 0.5)
    assert watched.examine(400, replace(GOOD, score=6.0)).kind == "fine"
    third = watched.examine(500, replace(GOOD, held_out_loss=2.0))
    assert third.kind == "stop" and watched.stopped and watched.roll_backs == 2
    assert "limit 3" in third.lines[0] and "the stage ends" in third.lines[0]
    assert "update 200" not in third.lines[0], "the conclusion tells it"
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
    assert Checkups().collapse("gradients").kind == "roll back"
