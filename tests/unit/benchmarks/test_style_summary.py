"""Ratios of ours, sampled as it says of itself, to the best that a user of stage 1 can choose for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from fluxduel.benchmarks.quality import report, run
from fluxduel.benchmarks.quality.styles import arms, job, subjects, summary
from fluxduel.benchmarks.quality.styles import report as style_report
from fluxduel.benchmarks.quality.styles.drawing import Setting
from fluxduel.benchmarks.quality.styles.summary import OWN
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig


def numbers(paired: float, retrieval: float = 0.5, **more: float) -> dict[str, float]:
    found = {"paired": paired, "retrieval": retrieval, "style": 0.5, "frechet": 4.0, "memorised": 0.05}
    return found | {"diversity": 0.9, "sharpness": 1.0} | more


def result(style: str, seed: int, arm: str, part: dict[Setting, float], **more: Any) -> dict[str, Any]:
    """Measured on a third with these distances, and on all with a tenth more."""
    return {
        "style": style, "seed": seed, "images": 24, "arm": arm, "drift": 1.0, "flow": 2.0,
        "part": {setting.name: numbers(distance) for setting, distance in part.items()},
        "whole": {setting.name: numbers(distance * 1.1) for setting, distance in part.items()},
        **more,
    }  # fmt: skip


DEIS, PLAIN = Setting("deis", 4, 1.0), Setting("euler", 4, 1.0)
MANY = Setting("dpmpp_2m", 25, 3.5)
STRONG = {OWN._replace(strength=strength): 1.0 for strength in job.STRENGTHS}


def some_results() -> list[dict[str, Any]]:
    """Ours over the best of stage 1: 0.9, 0.75, 1.2 at 4 steps and 1.5, 1, 2 of stage 1 at 25."""
    found = []
    for seed, (ours, deis, many) in enumerate(((0.9, 1.0, 0.6), (0.6, 0.8, 0.6), (1.2, 1.0, 0.6))):
        stage_1 = {OWN: 1.4, DEIS: deis, PLAIN: 1.3, MANY: many, **STRONG}
        found.append(result("3d", seed, "stage1", stage_1))
        mine = {OWN: ours, DEIS._replace(guidance=3.5): 1.5 * ours, MANY: 0.5 * ours, **STRONG}
        found.append(result("3d", seed, "ours", mine, drift=0.8, flow=2.2))
        found.append(result("3d", seed, "distil", {OWN: 2 * ours}))
    # A cell without its partner counts for nothing; nor does the order.
    found += [result("outline", seed, "ours", {OWN: 0.1}) for seed in (0, 1, 2)]
    found += [result("contrast", seed, "stage1", {OWN: 9.0}) for seed in (0, 1, 2)]
    return found[::-1]


def test_ours_is_compared_with_the_best_solver_and_guidance_of_its_own_cell():
    found = summary.summary(some_results(), 24)
    assert found["cells"] == 3
    assert found["paired4"] == pytest.approx(0.9) and found["paired4_ci"] == pytest.approx([0.75, 1.2])
    assert found["paired4_over_many"] == pytest.approx(1.5)
    # Stage 1 at the guidance of ours has 1.4 there.
    assert found["paired4_same_guidance"] == pytest.approx(0.9 / 1.4, abs=1e-4) and found["frechet4"] == 1
    assert found["paired4_both_best"] == pytest.approx(0.9)
    # At its own solver and guidance; the worst of the others at 4 and at 25 steps.
    assert found["toll4"] == pytest.approx(1.5) and found["toll25"] == pytest.approx(0.5)
    assert (found["drift"], found["val_flow"]) == (0.8, 1.1)
    assert found["strengths"] == {"0.6": 1.0, "0.8": 1.0, "1.2": 1.0, "1": pytest.approx(0.9 / 1.4, abs=1e-4)}
    assert found["memorised"] == found["retrieval"] == 1


def test_the_best_is_chosen_on_a_third_and_told_on_all():
    (one,) = [r for r in some_results() if (r["style"], r["arm"], r["seed"]) == ("3d", "stage1", 1)]
    assert summary.best(one, 4)["setting"] == DEIS.name
    assert summary.best(one, 4)["paired"] == pytest.approx(0.88)
    # Strength is not among what is chosen from: at 1.0 of 0.5 it would win.
    one["part"][OWN._replace(strength=0.6).name]["paired"] = 0.1
    assert summary.best(one, 4)["setting"] == DEIS.name


def test_a_rival_that_was_not_trained_is_said_to_be_missing():
    assert summary.over(some_results(), "distil", 24) == {"ratio": 0.5, "ci": [0.5, 0.5], "cells": 3}
    assert summary.over(some_results(), "mmd", 24) == {"ratio": None, "ci": None, "cells": 0}


def test_the_page_opens_with_what_is_missed():
    over = {"ratio": 0.4, "ci": [0.3, 0.6], "pairs": 3, "better_in": 3}
    none = {"ratio": None, "ci": None, "pairs": 0, "better_in": 0}
    found = {
        "styles": some_results(), "textures": [], "counts": (24,), "images": 256, "few_images": 24,
        "over_solver": over, "few_over_solver": over | {"ratio": 0.7}, "floors": {},
        "over_distil": summary.over(some_results(), "distil", 24),
        "over_mmd": summary.over(some_results(), "mmd", 24), "base": {"flat": 0.7, "noto": 0.8},
    }  # fmt: skip
    missed = "\n".join(report.what_was_asked(found))
    missed, met = missed.split("And met:")
    assert "24 pictures: paired distance at 4 over stage 1's best solver at 4 | 0.8, interval below 1 | 0.900" in missed
    assert "textures, 24 images: the same | 0.5 | 0.700 (0.300 to 0.600), 3 LoRAs" in missed
    assert "discrepancy of features" in missed
    assert "textures, 256 images" in met and "regression on stage 1's sub-steps | interval below 1 | 0.500" in met
    found |= {"over_solver": none, "few_over_solver": none}
    assert "| textures, 24 images: the same | 0.5 | not measured |" in report.what_was_asked(found)
    assert "Not measured in this run." in report.text(found)
    assert "the base keeps the subject" in met and "3 LoRAs from 24 pictures" not in met


def test_tables_hold_medians():
    lines = "\n".join(style_report._table(some_results(), 24))
    # The LoRA whose stage 1 was not measured is in no row.
    assert "| ours, Euler 4 | 0.99 | 0.5 |" in lines
    assert "| stage 1, Euler 4 | 1.54 | 0.5 |" in lines and "| stage 1, solver 25 | 0.66 |" in lines
    assert "| regression on stage 1's sub-steps, Euler 4 | 1.98 |" in lines
    assert style_report.rivals(some_results(), 24)[6].startswith(
        "| regression on stage 1's sub-steps | 0.5 (0.5 to 0.5) | 1 (1 to 1) |"
    )


def test_a_rival_is_taken_at_the_guidance_that_suits_it():
    results = [r for r in some_results() if r["arm"] != "distil"]
    results += [result("3d", seed, "unguided", {OWN: 3.0, PLAIN: 0.6}) for seed in (0, 1, 2)]
    (row,) = [line for line in style_report.rivals(results, 24) if "trained at guidance 1" in line]
    assert row.startswith("| ours, trained at guidance 1 | 1.5 (1 to 2) |")
    assert not [line for line in style_report._table(results, 24) if "trained at guidance 1" in line]


def test_each_style_that_was_compared_has_its_row():
    """Over the best, over the best at its guidance, FD, and both distances as ours is sampled: on all, a tenth more."""
    rows = style_report._by_style(some_results(), 24)[2:]
    assert rows == ["| 3d | 0.9 (0.75 to 1.2) | 0.643 | 1 | 1.54 to 0.99 |"]


@pytest.mark.parametrize("name", arms.ARMS)
def test_arms_have_valid_settings_and_as_many_steps(name):
    arm = arms.ARMS[name]
    stage, judge = arm.stage_config(3), arm.judge_config(3)
    assert isinstance(stage, AdversarialStageConfig) and isinstance(judge, DiscriminatorConfig)
    assert stage.steps == (arms.EQUAL_COMPUTE_STEPS if name == "longer" else arms.GENERATOR_STEPS)
    assert stage.seed == judge.seed == 3
    # The same selection of the best state for all of them.
    assert stage.watch and stage.validate_every == arms.VALIDATE_EVERY


@pytest.mark.parametrize("quick", [True, False])
def test_every_job_is_done_once_and_after_its_start(quick):
    wanted = run.style_jobs(2, quick)
    assert len({one.name for one in wanted}) == len(wanted)
    for place, one in enumerate(wanted):
        if one.arm != "stage1":
            assert wanted.index(one._replace(arm="stage1")) < place
    assert {one.style for one in wanted} == set(subjects.STYLES[:1] if quick else subjects.STYLES)
    assert min(one.seed for one in wanted) >= 1000
    assert {one.arm for one in wanted if one.images == 24} >= {"stage1", "ours", "distil"}
