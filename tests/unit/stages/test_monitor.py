"""The watches together: who asks, who decides, what is said, and that a restored one decides the same."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from fluxduel.tests.unit.stages.test_checkups import GOOD, START
from fluxduel.training.stages.monitor import Monitor


def monitor():
    made = Monitor()
    made.checkups.begin(START)
    return made


def test_requests_reach_the_one_who_decides():
    watched = monitor()
    for norm in [1.0] * 50 + [100.0] * 6:
        watched.lora.outlier(norm)
    verdict = watched.after_update()
    assert verdict.kind == "roll back" and "6 of the last 50" in verdict.lines[0]
    assert watched.adversarial_scale == 0.5
    assert watched.after_update().kind == "fine"
    assert not watched.lora.outlier(100.0)
    for _ in range(250):
        watched.balance.update(1.0)
    verdict = watched.after_update()
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
        verdict = watched.after_update()
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
