"""What a stage is said to take, against what it takes."""

from __future__ import annotations

import time

import pytest

from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.stages import pace
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

SIDE = 64


@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_a_step_takes_about_what_was_expected(start, kind, monkeypatch):
    """Pictures are so large that evaluations of the base are most of it."""
    # What others do on this machine is no part of it.
    monkeypatch.setattr(pace.time, "perf_counter", time.process_time)
    common = dict(steps=20, batch_size=2, gradient_accumulation=2, validate_every=0, ema_decay=0.0)
    if kind == "diffusion":
        stage = DiffusionStage(start, make_data(side=SIDE), DiffusionStageConfig(**common), device="cpu")
    else:
        config = AdversarialStageConfig(**common, watch=False, discriminator_warmup=0)
        judge = DiscriminatorConfig(width=4, augmentation="off")
        stage = AdversarialStage(start, make_data(side=SIDE), judge, config, device="cpu")
    stage.step(0)
    taken = []
    for step in (1, 2, 3):
        began = time.process_time()
        stage.step(step)
        taken.append(time.process_time() - began)
    step, whole = min((pace.expected_seconds(stage) for _ in range(3)), key=lambda each: each[0])
    print(f"expected {step:.3f} s, found {min(taken):.3f} s")
    assert 0.3 < step / min(taken) < 2
    assert whole == pytest.approx(20 * step)


def test_warm_up_is_a_part_of_the_whole(start):
    config = AdversarialStageConfig(steps=3, discriminator_warmup=40, watch=False, validate_every=0)
    stage = AdversarialStage(start, make_data(), DiscriminatorConfig(width=4), config, device="cpu")
    step, whole = pace.expected_seconds(stage)
    assert whole > 10 * step


@pytest.mark.parametrize(("seconds", "words"), [(0.0123, "0.012 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_are_in_the_unit_that_is_read_easily(seconds, words):
    assert pace._duration(seconds) == words
