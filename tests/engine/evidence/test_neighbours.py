"""What an evaluation shows beside its settings: that these samples are made, measured, counted, and told of."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data, practice_prompts
from fluxduel.tests.engine.evidence.test_evaluation import SETTINGS, few_step, with_stage
from fluxduel.training.base.base_model import load_base
from fluxduel.training.base.sampler import sample
from fluxduel.training.config import LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence import neighbours
from fluxduel.training.evidence.evaluation import evaluate
from fluxduel.training.evidence.evaluation_result import Result
from fluxduel.training.evidence.latent_metrics import Measurement
from fluxduel.training.evidence.neighbours import (
    EMPTY,
    MUCH_WORSE,
    PRACTICE,
    around,
    notes_on_neighbours,
    own_steps,
)
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import create

VARIATIONS = ["dpmpp_2m", "twice the steps", "strength 0.7", "strength 1.3", "no prompt"]


@pytest.fixture(scope="module")
def real() -> RealLatents:
    return make_data(count=12, held_out=5, side=8)


def test_each_neighbour_is_sampled_as_it_says(start, reference, real) -> None:
    bare = create(reference, LoRAConfig(rank=2, alpha=2.0))
    found = evaluate([("base", bare), ("one", start)], real, **SETTINGS, keep=2, neighbours="on")
    assert [(each.name, each.variation) for each in found.neighbours] == [("one", text) for text in VARIATIONS]
    base = load_base(start.base, DEVICE)
    caption = real.prompts[real.samples[real.held_out[0]].prompt]
    settings = [("dpmpp_2m", 1, 1.0, caption), ("euler", 2, 1.0, caption), ("euler", 1, 0.7, caption)]
    settings += [("euler", 1, 1.3, caption), ("euler", 1, 1.0, real.empty_prompt)]
    for result, (solver, steps, strength, prompt) in zip(found.neighbours, settings, strict=True):
        # Of a LoRA, alpha is a factor of its change as well.
        config = dataclasses.replace(start.config, alpha=start.config.alpha * strength)
        adapter.attach(base, dataclasses.replace(start, config=config))
        expected = sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=8, width=8, steps=steps, seeds=[40],
            guidance=2.0, solver=solver,
        )  # fmt: skip
        torch.testing.assert_close(result.latents[:1], expected.cpu(), rtol=1e-3, atol=1e-3)
        assert (result.solver, result.steps, result.few_step) == (solver, steps, False)
        assert (result.held_out_loss is None) == (strength != 1)
    # What they are beside is what it is without them.
    alone = evaluate([("base", bare), ("one", start)], real, **SETTINGS)
    assert alone.neighbours == ()
    for one, other in zip(found.results, alone.results, strict=True):
        assert one.measurement == other.measurement and one.held_out_loss == other.held_out_loss


def test_prompts_without_pictures_are_drawn_in_turn(start, real) -> None:
    """Picture i from prompt i of those that there are, in the noise of picture i."""
    practising = dataclasses.replace(real, practice_prompts=practice_prompts()[:3])
    settings: dict[str, Any] = SETTINGS | {"count": 5}
    found = evaluate([("one", start)], practising, **settings, keep=5, neighbours="on")
    assert [each.variation for each in found.neighbours] == [*VARIATIONS[:-1], "practice prompts", "no prompt"]
    base = load_base(start.base, DEVICE)
    adapter.attach(base, start)
    drawn = found.neighbours[-2]
    for place in range(5):
        prompt = practising.practice_prompts[place % 3]
        expected = sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=8, width=8, steps=drawn.steps,
            seeds=[settings["seed"] + place], guidance=2.0,
        )  # fmt: skip
        torch.testing.assert_close(drawn.latents[place : place + 1], expected.cpu(), rtol=1e-3, atol=1e-3)
    # They do not say which of two samplers they are for.
    told_apart = few_step(practising)
    found = evaluate([("one", start)], told_apart, **settings, neighbours="on")
    assert [each.variation for each in found.neighbours] == VARIATIONS


def test_all_rows_have_the_sampler_that_is_asked_for(start, real) -> None:
    euler, found = (evaluate([("one", start)], real, **SETTINGS, solver=solver) for solver in ("euler", "heun"))
    assert {result.solver for result in found.results} == {"heun"} and "The sampler is heun." in found.report()
    # One step of Heun's ends at the data, hence is Euler's.
    assert found.results[0].measurement == euler.results[0].measurement
    assert found.results[1].measurement != euler.results[1].measurement


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_progress_counts_neighbours_and_heuns_evaluations(start, real, solver: str) -> None:
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = SETTINGS | {"step_counts": (2,), "count": 3, "neighbours": "on", "solver": solver}
    evaluate([("one", start)], real, **options, after_step=lambda *step: seen.append(step))
    # The row, another sampler, twice the steps, two strengths; no prompt, for all at once; 5 held-out pictures in
    # batches of 4, at 4 levels.
    asked, at_once = (2 + 2 + 4 + 2 + 2, 2) if solver == "euler" else (3 + 2 + 7 + 3 + 3, 3)
    total = 3 * asked + at_once + 2 * 4
    assert seen == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("counts", "config", "made"),
    [
        # Five times 4 is less than all of 29; five times 25 is more.
        ((4, 25), {"target_steps": 4}, True),
        ((4, 25), {"target_steps": 25}, False),
        ((4, 25), {"target_steps": 9}, True),
        ((4,), {"target_steps": 4}, False),
        ((4, 8), {"target_steps": 4}, False),
    ],
)
def test_by_default_they_are_made_where_they_take_no_longer_than_the_rest(
    start, real, counts: tuple[int, ...], config: dict[str, Any], made: bool
) -> None:
    lora = with_stage(start, "adversarial", real, **config)
    options: dict[str, Any] = SETTINGS | {"step_counts": counts, "count": 2, "neighbours": "auto"}
    found = evaluate([("one", lora)], dataclasses.replace(real, held_out=()), **options)
    assert [each.variation for each in found.neighbours] == (VARIATIONS if made else [])
    assert any("was left out" in note and "neighbours to on" in note for note in found.notes) != made
    with pytest.raises(ValueError, match="neighbours must be one of auto, on, off, got 'yes'"):
        evaluate([("one", lora)], real, **options | {"neighbours": "yes"})


def test_they_are_around_the_steps_that_the_lora_was_trained_for(start) -> None:
    assert own_steps(start, (2, 6)) == 2
    assert own_steps(with_stage(start, "adversarial", target_steps=6), (2, 6)) == 6
    assert own_steps(with_stage(start, "adversarial", target_steps=5), (2, 6)) == 2
    assert own_steps(with_stage(start, "adversarial", target="two_samplers", target_steps=12), (2, 8, 12)) == 8
    assert own_steps(with_stage(start, "diffusion"), (2, 6)) == 2
    assert [each.solver for each in around("deis", 4)] == ["euler", *["deis"] * 4]
    assert [each.prompts for each in around("deis", 4, practice=True)] == ["", "", "", "", PRACTICE, EMPTY]


def test_twice_the_steps_of_a_few_step_sampler_are_asked_as_that(start, real) -> None:
    """With more than 8 steps it would be the other of the two, which is no neighbour."""
    lora = with_stage(start, "adversarial", real, target="two_samplers", target_steps=8, few_step_guidance=7.0)
    options: dict[str, Any] = SETTINGS | {"step_counts": (8,), "count": 2, "neighbours": "on"}
    found = evaluate([("one", lora)], few_step(real), **options)
    assert [(each.steps, each.few_step, each.guidance) for each in found.neighbours][1] == (16, True, 7.0)


def test_neighbours_stand_in_table_rows_and_json(start, real) -> None:
    found = evaluate([("one", start)], real, **SETTINGS, neighbours="on")
    lines = found.table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "one", "one", *(f"one, {text}" for text in VARIATIONS), "floor (real)",
    ]  # fmt: skip
    assert found.rows()[2]["LoRA"] == "one, dpmpp_2m" and len(found.rows()) == 2 + len(VARIATIONS)
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [each["variation"] for each in plain["neighbours"]] == VARIATIONS
    assert plain["neighbours"][0]["sampler"] == "dpmpp_2m" and plain["results"][0]["sampler"] == "euler"
    assert len(plain["results"]) == 2


def result(variation: str, patches: float, spectrum: float) -> Result:
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(Measurement)), 1.0)
    numbers |= {"patch_sliced_wasserstein": patches, "spectrum_distance": spectrum}
    return Result(
        name="mine", bare=False, steps=4, guidance=1.0, cfg=1.0, solver="euler", variation=variation, few_step=False,
        measurement=Measurement(**numbers), held_out_loss=None, latents=torch.zeros(0),
    )  # fmt: skip


def test_neighbours_that_are_much_worse_are_told_with_how_much() -> None:
    own = result("", 0.2, 1.0)
    near, better = result("near", 0.2 * MUCH_WORSE - 0.01, 1.4), result("better", 0.01, 0.1)
    others = [result(PRACTICE, 9.0, 9.0), result(EMPTY, 9.0, 9.0)]
    assert notes_on_neighbours(own, [near, better, *others]) == []
    patches, both = result("dpmpp_2m", 0.62, 1.0), result("strength 1.3", 0.4, 1.6)
    (note,) = notes_on_neighbours(own, [near, patches, both])
    assert note.startswith(
        "What mine does at 4 steps with euler does not carry over to dpmpp_2m (patch SWD 3.1x); strength 1.3 (patch "
        "SWD 2.0x, spectrum 1.6x). Say with the file how it is to be sampled."
    )
    assert "from 1.5x on" in note and "near" not in note
    # A neighbour that is no picture at all is worse than any.
    (note,) = notes_on_neighbours(own, [result("broken", math.nan, math.nan)])
    assert "broken (patch SWD nanx, spectrum nanx)" in note


def test_what_is_told_of_neighbours_stands_in_the_report(start, real, monkeypatch) -> None:
    """Beside the row of the LoRA's own steps, with a limit that each is beyond."""
    monkeypatch.setattr(neighbours, "MUCH_WORSE", 0.0)
    lora = with_stage(start, "adversarial", real, target_steps=2)
    found = evaluate([("one", lora)], real, **SETTINGS, neighbours="on")
    (note,) = [note for note in found.notes if "does not carry over" in note]
    assert note in found.report() and note.startswith("What one does at 2 steps with euler ")
    # Without a prompt it need not draw its pictures.
    assert "no prompt" not in note
    for each in found.neighbours[:-1]:
        times = each.measurement.spectrum_distance / found.results[1].measurement.spectrum_distance
        assert f"{each.variation} (" in note and f"spectrum {times:.1f}x" in note
