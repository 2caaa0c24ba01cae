"""A run by a plan of its memory: what it settles on stays, and where memory runs out it goes on by a cheaper plan."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.tests.engine.small import Small, each_family, small_of
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    AUTO,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.lora.adapter import FluxLoRA, create
from fluxduel.training.runs.planned import run_planned
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.plan import GIB, Counting, NoRoom, Plan, demand_of
from fluxduel.training.stages.ranks import ALONE
from fluxduel.training.stages.stage import StageFailure

CONFIG = DiffusionStageConfig(steps=4, batch_size=2, validate_every=0, checkpoint_every=0)
JUDGE = DiscriminatorConfig(width=8)


@pytest.fixture(scope="module")
def start(wide_transformer: Path) -> FluxLoRA:
    return create(BaseReference(str(wide_transformer), "fp32"), LoRAConfig(rank=3))


@functools.cache
def counting(folder: str, stage_2: bool) -> Counting:
    start = create(BaseReference(folder, AUTO), LoRAConfig(rank=3))
    config = AdversarialStageConfig(batch_size=2) if stage_2 else CONFIG
    return Counting(start, demand_of(start, make_data(small=small_of(start)), config, JUDGE if stage_2 else None))


def in_precision(start: FluxLoRA, precision: str) -> FluxLoRA:
    return dataclasses.replace(start, base=dataclasses.replace(start.base, precision=precision))


def limit(start: FluxLoRA, plan: Plan, stage_2: bool = False) -> float:
    """As many GiB as the plan takes."""
    return counting(start.base.path, stage_2).peak(plan) / GIB


def train(start: FluxLoRA, config: DiffusionStageConfig, folder: Path | None = None, stop: int | None = None):
    reporter = Recorder(stop_before=stop)
    data = make_data(small=small_of(start))
    result = train_diffusion_stage(start, data, config, device="cpu", reporter=reporter, run_folder=folder)
    return result, reporter


@each_family
def test_what_is_settled_on_is_told_and_gives_the_result_of_its_precision(start):
    automatic = in_precision(start, AUTO)
    config = dataclasses.replace(CONFIG, memory_limit_gb=limit(start, Plan("int8_convrot", "blocks", 0.5)))
    found, reporter = train(automatic, config)
    wanted, _ = train(in_precision(start, "int8_convrot"), CONFIG)
    assert all(tensor.equal(wanted.lora.tensors[name]) for name, tensor in found.lora.tensors.items())
    # The next stage is to decide for itself.
    assert found.lora.base == automatic.base
    assert found.lora.provenance[-1]["precision"] == "int8_convrot"
    step, text = reporter.notes[0]
    assert step == 0 and text.startswith("Memory: int8_convrot, every block computed anew, ")
    assert "streamed" in text and (0, text) in found.log.notes
    assert reporter.notes[1][1].startswith("By the base alone an update takes ")


@each_family
def test_stage_2_is_planned_with_its_discriminator(start, family: Small):
    """What suffices for stage 1 in bf16 does not for stage 2."""
    automatic = in_precision(start, AUTO)
    most = limit(start, Plan("bf16", "blocks"))
    assert most < limit(start, Plan("bf16", "blocks"), stage_2=True)
    config = AdversarialStageConfig(
        steps=2, batch_size=2, validate_every=0, discriminator_warmup=0, watch=False, memory_limit_gb=most
    )
    data = make_data(small=family)
    found = train_adversarial_stage(automatic, data, JUDGE, config, device="cpu", reporter=Recorder()).lora
    assert found.provenance[-1]["precision"] == "int8_convrot"


def test_without_a_limit_the_cpu_is_asked_for_nothing(start):
    found, reporter = train(in_precision(start, AUTO), CONFIG)
    wanted, _ = train(in_precision(start, "bf16"), CONFIG)
    assert all(tensor.equal(wanted.lora.tensors[name]) for name, tensor in found.lora.tensors.items())
    assert not reporter.notes


@each_family
def test_a_run_goes_on_in_the_precision_that_it_began_in(start, tmp_path):
    """With more memory than before, with less, and to more steps."""
    automatic, folder = in_precision(start, AUTO), tmp_path / "run"
    small = dataclasses.replace(CONFIG, memory_limit_gb=limit(start, Plan("int8_convrot", "blocks")))
    wanted, _ = train(in_precision(start, "int8_convrot"), CONFIG)
    stopped, _ = train(automatic, small, folder, stop=2)
    assert stopped.stopped
    assert json.loads((folder / "run.json").read_text())["settings"]["precision"] == "int8_convrot"
    smaller = dataclasses.replace(CONFIG, memory_limit_gb=limit(start, Plan("int8_convrot", "blocks", 1.0)))
    stopped, reporter = train(automatic, smaller, folder, stop=3)
    assert stopped.stopped and "% of the blocks streamed" in reporter.notes[0][1]
    found, _ = train(automatic, CONFIG, folder)
    assert all(tensor.equal(wanted.lora.tensors[name]) for name, tensor in found.lora.tensors.items())
    more = dataclasses.replace(CONFIG, steps=6)
    found, _ = train(automatic, more, folder)
    wanted, _ = train(in_precision(start, "int8_convrot"), more)
    assert all(tensor.equal(wanted.lora.tensors[name]) for name, tensor in found.lora.tensors.items())


def test_what_does_not_fit_is_refused_before_anything_is_made(start, tmp_path):
    config = dataclasses.replace(CONFIG, memory_limit_gb=limit(start, Plan("bf16", "blocks")) * 0.9)
    with pytest.raises(NoRoom, match="What fits: "):
        train(in_precision(start, "bf16"), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Failing(DiffusionStage):
    """Out of memory at chosen steps, before or after the LoRA's update, with what is not computed anew."""

    def __init__(self, *given: object, fails: Callable[[Plan, int], str], **named: object) -> None:
        super().__init__(*given, **named)
        self._fails = fails

    def step(self, step: int) -> dict[str, float]:
        when = self._fails(self.plan, step)
        if when == "before":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        values = super().step(step)
        if when == "after":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return values


def planned(start: FluxLoRA, fails: Callable[[Plan, int], str], plan: Plan, config: DiffusionStageConfig = CONFIG):
    reporter, tried = Recorder(), []

    def make(plan: Plan) -> DiffusionStage:
        tried.append(plan)
        return Failing(start, make_data(small=small_of(start)), config, device="cpu", plan=plan, fails=fails)

    return run_planned(make, plan, reporter, None, ALONE), reporter, tried


@each_family
@pytest.mark.parametrize("when", ["before", "after"])
def test_out_of_memory_goes_on_by_a_cheaper_plan(start, when):
    """From the state before the step where that is whole; what was updated already begins anew."""
    plan = Plan("fp32", "feed_forward")
    found, reporter, tried = planned(
        start, lambda plan, step: when if plan.checkpointing != "blocks" and step == 2 else "", plan
    )
    assert tried == [plan, Plan("fp32", "blocks")]
    wanted, _ = train(start, CONFIG)
    assert all(tensor.equal(wanted.lora.tensors[name]) for name, tensor in found.lora.tensors.items())
    steps = [record["step"] for record in reporter.records]
    assert steps == ([1, 2, 3, 4] if when == "before" else [1, 2, 1, 2, 3, 4])
    (note,) = [text for _, text in reporter.notes if text.startswith("Out of memory")]
    assert note == (
        "Out of memory at update 3 with fp32, feed-forward parts computed anew. Going on, once, with fp32, every block "
        "computed anew."
    )
    assert [record["step"] for record in found.log.records] == [1, 2, 3, 4]


def test_a_second_time_it_ends_with_what_there_is(start):
    with pytest.raises(StageFailure, match="update 4 of 4: CUDA out of memory") as caught:
        planned(start, lambda plan, step: "before" if step == (3 if plan.streamed_share else 1) else "",
                Plan("fp32", "blocks"))  # fmt: skip
    assert [record["step"] for record in caught.value.result.log.records] == [1, 2, 3]


def test_other_failures_are_not_tried_again(start):
    def broken(plan: Plan, step: int) -> str:
        raise ValueError("no")

    with pytest.raises(StageFailure, match="no"):
        planned(start, broken, Plan("fp32", "none"))


def test_the_cheapest_plan_has_no_other(start):
    with pytest.raises(StageFailure, match="out of memory"):
        planned(start, lambda plan, step: "before", Plan("fp32", "blocks", 1.0))
