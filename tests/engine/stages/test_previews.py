"""Previews show what the LoRA is for, as often as they are cheap, and cost nothing but themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.training.base.solvers import evaluations
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, StageConfig
from fluxduel.training.data.real_latents import Prompt, RealLatents
from fluxduel.training.runs.stage_loop import Loop, run
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages import previews
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import Stage

SMALL: dict[str, Any] = {
    "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "gradient_checkpointing": False, "validate_every": 0,
}  # fmt: skip
STAGE_1 = DiffusionStageConfig(**SMALL, preview_steps=3, preview_sampler="heun")
STAGE_2 = AdversarialStageConfig(**SMALL, discriminator_warmup=2, watch=False)
JUDGE = DiscriminatorConfig(architecture="cnn", width=8, depth=1)


def own_prompts(data: RealLatents) -> RealLatents:
    """``data`` with three preview prompts, longer than its captions."""
    generator = torch.Generator().manual_seed(9)
    sizes = data.prompts[0].length + 3, data.prompts[0].width, data.prompts[0].pooled_width
    shown = [
        Prompt(f"mine {n}", torch.randn(*sizes[:2], generator=generator), torch.randn(sizes[2], generator=generator))
        for n in range(3)
    ]
    few = tuple(dataclasses.replace(prompt, caption=f"fast, {prompt.caption}") for prompt in shown)
    return dataclasses.replace(
        data, preview_prompts=tuple(shown), few_step_preview_prompts=few if data.few_step_phrase else ()
    )


def made(start, data: RealLatents, config: StageConfig) -> Stage:
    if isinstance(config, AdversarialStageConfig):
        return AdversarialStage(start, data, JUDGE, config, device=DEVICE)
    return DiffusionStage(start, data, config, device=DEVICE)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (STAGE_1, ["3 steps, heun, guidance 3.5"]),
        (dataclasses.replace(STAGE_1, guidance=2.0), ["3 steps, heun, guidance 2"]),
        (dataclasses.replace(STAGE_1, preview_guidance=1.0), ["3 steps, heun, guidance 1"]),
        (STAGE_2, ["4 steps, euler, guidance 3.5"]),
        (dataclasses.replace(STAGE_2, preview_steps=3, preview_sampler="heun"), ["4 steps, euler, guidance 3.5"]),
        (dataclasses.replace(STAGE_2, target_steps=1, guidance=5.0), ["1 step, euler, guidance 5"]),
        (dataclasses.replace(STAGE_2, target_steps=12), ["12 steps, euler, guidance 3.5"]),
        (
            dataclasses.replace(STAGE_2, target="two_samplers", target_steps=12, few_step_guidance=7.0),
            ["8 steps, euler, guidance 7", "8 steps, euler, guidance 3.5"],
        ),
        (
            dataclasses.replace(STAGE_2, target="two_samplers", preview_steps=9, preview_sampler="heun"),
            ["4 steps, euler, guidance 3.5", "9 steps, heun, guidance 3.5"],
        ),
    ],
)
def test_pictures_are_sampled_as_the_lora_is_going_to_be(config: StageConfig, said: list[str]) -> None:
    found = [
        f"{each.steps} step{'s'[: each.steps != 1]}, {each.solver}, guidance {each.guidance:g}"
        for each in previews.samplings(config)
    ]
    assert found == said


@pytest.mark.parametrize(
    ("config", "base_cfg", "cfgs"),
    [
        (STAGE_1, 1.0, [1.0]),
        (STAGE_1, 4.0, [4.0]),
        (dataclasses.replace(STAGE_1, preview_cfg=2.0), 4.0, [2.0]),
        (STAGE_2, 4.0, [1.0]),
        (dataclasses.replace(STAGE_2, preview_cfg=2.0), 4.0, [2.0]),
        (dataclasses.replace(STAGE_2, target_steps=12), 4.0, [4.0]),
        (dataclasses.replace(STAGE_2, target="two_samplers"), 4.0, [1.0, 4.0]),
        (dataclasses.replace(STAGE_2, target="two_samplers", preview_cfg=2.0), 4.0, [1.0, 2.0]),
    ],
)
def test_a_base_that_needs_cfg_has_it_but_for_the_few_steps_of_stage_2(
    config: StageConfig, base_cfg: float, cfgs: list[float]
) -> None:
    assert [each.cfg for each in previews.samplings(config, base_cfg)] == cfgs


def test_steps_that_are_left_open_are_those_of_a_distilled_base() -> None:
    left = dataclasses.replace(STAGE_1, preview_steps=0)
    both = dataclasses.replace(STAGE_2, target="two_samplers")
    steps = [[each.steps for each in previews.samplings(c, base_steps=b)] for c in (left, both) for b in (0, 4)]
    assert steps == [[8], [4], [4, 8], [4, 4]]
    assert [each.steps for each in previews.samplings(STAGE_1, base_steps=4)] == [3]


def test_previews_are_led_from_the_negative_prompt_and_cost_twice_as_much(start, data) -> None:
    led = dataclasses.replace(STAGE_1, preview_cfg=2.0)
    one, other = (dataclasses.replace(data, negative_prompt=prompt) for prompt in (None, data.prompts[3]))
    plain, empty, away = (previews.draw(made(start, *given), lambda: None)
                          for given in ((one, STAGE_1), (one, led), (other, led)))  # fmt: skip
    assert not torch.allclose(plain, empty) and not torch.allclose(empty, away)
    assert torch.equal(plain, previews.draw(made(start, other, STAGE_1), lambda: None))
    assert previews.rows_of(made(start, one, led))[0].how == "3 steps, heun, guidance 3.5, cfg 2, seed 0"
    costs = [sum(each.sampling.passes for each in previews.drawings(data, config)) for config in (STAGE_1, led)]
    assert costs[1] == 2 * costs[0] == 4 * evaluations("heun", 3)


def test_each_row_says_what_it_is(start, data) -> None:
    stage = made(start, own_prompts(with_phrase(data)), dataclasses.replace(STAGE_2, target="two_samplers"))
    few, many = "4 steps, euler, guidance 3.5, seed 0", "8 steps, euler, guidance 3.5, seed 0"
    expected = [(f"{phrase}mine {n}", how) for n in range(3) for phrase, how in (("fast, ", few), ("", many))]
    assert [tuple(row) for row in previews.rows_of(stage)] == expected
    stage.base.guidance_embeds = False
    assert previews.rows_of(stage)[0].how == "4 steps, euler, seed 0"


def test_one_caption_is_drawn_from_two_noises(start) -> None:
    data = make_data()
    data = dataclasses.replace(data, samples=tuple(dataclasses.replace(s, prompt=0) for s in data.samples))
    stage = made(start, data, dataclasses.replace(STAGE_1, preview_seed=7))
    assert [(d.prompt.caption, d.seed) for d in previews.drawings(data, stage.config)] == [
        ("caption 0", 7), ("caption 0", 8)
    ]  # fmt: skip
    first, second = previews.draw(stage, lambda: None)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("config", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])
def test_the_training_does_not_notice_previews(start, data, config: StageConfig) -> None:
    """Bit for bit, with prompts of another length and in every step."""
    plain = run(made(start, data, dataclasses.replace(config, preview_every=0)), Recorder())
    recorder = Recorder()
    shown = run(made(start, own_prompts(data), dataclasses.replace(config, preview_every=1)), recorder)
    assert all(torch.equal(tensor, shown.lora.tensors[name]) for name, tensor in plain.lora.tensors.items())
    assert plain.log.records == shown.log.records
    # In the warm-up the LoRA is still the start.
    assert [step for step, _ in recorder.shown] == ([0, 1, 2, 3, 4] if config is STAGE_1 else [0, 3, 4, 5, 6])
    assert {len(rows) for _, rows in recorder.shown} == {3}
    assert recorder.delivered == [None] * 4 + [recorder.shown[-1][0]]


def test_the_last_preview_is_of_what_is_delivered_and_not_of_the_last_step(start, data) -> None:
    """Stage 2 goes back to its best state at its end."""
    stage = made(start, data, dataclasses.replace(STAGE_2, preview_every=6))
    stage.watch.conclude = stage.watch._return_to_best
    recorder = Recorder()
    result = run(stage, recorder)
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in result.lora.tensors.items())
    torch.testing.assert_close(recorder.previews[1], recorder.previews[0], rtol=0, atol=0)


# How often


@pytest.mark.parametrize(("steps", "batch"), [(10, 1), (400, 1), (1000, 1), (1000, 4), (50_000, 1)])
@pytest.mark.parametrize("config", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])
def test_previews_of_the_stages_own_choice_take_a_fiftieth_of_its_time(
    start, data, config: StageConfig, steps: int, batch: int
) -> None:
    stage = made(start, data, dataclasses.replace(config, steps=steps, batch_size=batch))
    assert stage.config.preview_every == previews.AUTOMATIC
    every = previews.interval(stage)
    training = stage.training_evaluations(0) * batch
    one = sum(evaluations(each.sampling.solver, each.sampling.steps) for each in previews.drawings(data, config))
    if not every:
        # Not even start and end.
        assert 2 * one > 0.02 * training
        return
    count = len({*range(0, stage.total, every), stage.total})
    assert count * one <= 0.02 * training and count <= 10
    # And not far from as many as that allows.
    assert count >= min(10, 0.02 * training // one) - 2 >= 0


def test_a_run_that_is_too_short_for_previews_has_none_and_one_that_asks_has_them(start, data) -> None:
    for config, count in ((STAGE_1, 0), (dataclasses.replace(STAGE_1, preview_every=100), 2)):
        recorder = Recorder()
        run(made(start, data, config), recorder)
        assert len(recorder.previews) == count


# Failures


class Broken(Recorder):
    """Cannot show anything."""

    def preview(self, *given: Any) -> None:
        raise RuntimeError("no decoder here.")


@pytest.mark.parametrize("where", ["drawing", "showing"])
def test_a_preview_that_fails_costs_the_preview(start, data, tmp_path: Path, where: str) -> None:
    config = dataclasses.replace(STAGE_1, preview_every=2)
    if where == "drawing":
        # A prompt that the base cannot take.
        wrong = Prompt("wrong", torch.zeros(3, data.prompts[0].width + 1), data.prompts[0].pooled_prompt_embeds)
        data = dataclasses.replace(data, preview_prompts=(wrong,))
    recorder = Broken() if where == "showing" else Recorder()
    result = train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=tmp_path)
    assert not result.stopped and len(result.log.records) == 4 and recorder.previews == []
    told = [(step, text) for step, text in recorder.notes if text.startswith("No preview this time: ")]
    assert [step for step, _ in told] == [0, 2, 4] and all(text.endswith("goes on without it.") for _, text in told)
    if where == "showing":
        assert told[0][1] == "No preview this time: no decoder here. Training goes on without it."
    # The last one failed when the result was complete already: it is the same run's.
    again = train_diffusion_stage(start, data, config, device=DEVICE, reporter=Recorder(), run_folder=tmp_path)
    assert again.log.notes == result.log.notes and (4, told[-1][1]) not in result.log.notes


def test_a_stop_within_the_last_preview_leaves_a_finished_run(start, data, tmp_path: Path) -> None:
    config = dataclasses.replace(STAGE_1, preview_every=100, preview_steps=2, preview_sampler="euler")
    # Four evaluations for the start, one poll a step, and then in the midst of the end's four.
    recorder = Recorder(stop_before=4 + 4 + 2)
    result = train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=tmp_path)
    assert not result.stopped and len(recorder.previews) == 1
    again = Recorder()
    train_diffusion_stage(start, data, config, device=DEVICE, reporter=again, run_folder=tmp_path)
    assert again.records == [] and len(again.earlier) == 4


def test_a_run_that_goes_on_does_not_show_its_start_again(start, data, tmp_path: Path) -> None:
    config = dataclasses.replace(STAGE_1, preview_every=2, preview_steps=2, preview_sampler="euler")
    whole = Recorder()
    run(made(start, data, config), whole)
    first, second = Recorder(stop_before=4 + 4), Recorder()
    for recorder in (first, second):
        train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=tmp_path)
    assert [step for step, _ in first.shown + second.shown] == [0, 2, 4]
    for drawn, expected in zip(first.previews + second.previews, whole.previews, strict=True):
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0)


def test_a_longer_run_has_its_own_interval(start, data) -> None:
    stages = [made(start, data, dataclasses.replace(STAGE_1, steps=steps)) for steps in (1000, 2000)]
    short, long = (Loop(stage, Recorder(), None)._preview_every for stage in stages)
    assert 0 < short < long
