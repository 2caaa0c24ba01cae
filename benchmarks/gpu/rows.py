"""The measurements of both stages at one picture size: memory, time, a cap on the memory, compiled blocks."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo.utils import counters

from fluxduel.benchmarks.plain_loop import plain_loop
from fluxduel.benchmarks.step import mean_operations
from fluxduel.training.evidence import metrics
from fluxduel.training.runs import stage_loop
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.overfitting import OVERFITTING_EVERY
from fluxduel.training.stages.stage import Stage

from .subject import RANK, TIMED, WARM_UP, Subject, gib

# What a measurement needs at once does not depend on how often it is repeated.
FEW_HELD_OUT, FEW_WATCHED, FEW_STEPS = 2, 4, 2
CAPPED_STEPS = 2
# More than the kinds of call that stage 2 makes of a block: beyond the limit torch goes on uncompiled.
RECOMPILE_LIMIT = 64
# Keys of a stage's row.
MEASUREMENTS = ("held_out_loss", "preview", "samples", "step_with_look")


def load(subject: Subject) -> dict[str, Any]:
    """The size of what is on the device before anything is trained."""
    sizes = {
        "weights_gib": gib(sum(weight.nbytes for weight in subject.weights.values())),
        "parameters": sum(weight.numel() for weight in subject.weights.values()),
        "lora_parameters": sum(tensor.numel() for tensor in subject.start.tensors.values()),
    }
    if subject.device.type == "cuda":
        sizes |= {"allocated": gib(torch.cuda.memory_allocated()), "card": gib(torch.cuda.mem_get_info()[1])}
    return sizes


def stage_1(subject: Subject, pixels: int) -> dict[str, Any]:
    """Steps of stage 1, their executed operations, and each of its measurements alone."""
    stage, made = subject.cost(lambda: subject.stage_1(pixels, preview_steps=FEW_STEPS))
    step = _steps(stage)
    _, first = subject.cost(step)
    step()
    seconds, steps = subject.cost(lambda: subject.median(step))
    operations = mean_operations(step, 1)
    return {
        "made": made,
        "first_step": first,
        "steps": steps,
        "seconds": round(seconds, 4),
        "tflop": round(operations / 1e12, 3),
        "tflops": round(operations / 1e12 / seconds, 3),
        "held_out_loss": subject.cost(lambda: _held_out_loss(stage))[1],
        "preview": subject.cost(lambda: stage_loop._preview(stage, lambda: None))[1],
    }


def stage_2(subject: Subject, pixels: int) -> dict[str, Any]:
    """Steps of stage 2 with its defaults, with and without the look at held-out pictures, and its measurements."""
    stage, made = subject.cost(lambda: subject.stage_2(pixels, watch_pictures=FEW_WATCHED))
    step = _steps(stage)
    _, first = subject.cost(step)
    step()
    # Up to the next look, and the step that holds it.
    timed, steps = subject.cost(lambda: subject.each(step, OVERFITTING_EVERY - WARM_UP))
    ((with_look, values),), looking = subject.cost(lambda: subject.each(step, 1))
    if "held_out_logits" not in values or any("held_out_logits" in each for _, each in timed):
        raise AssertionError(f"the look at held-out pictures did not come in step {OVERFITTING_EVERY} alone")
    without = statistics.median(seconds for seconds, _ in timed)
    return {
        "made": made,
        "first_step": first,
        "steps": steps,
        "step_with_look": looking,
        "seconds_without_held_out": round(without, 4),
        "seconds": round((without * (OVERFITTING_EVERY - 1) + with_look) / OVERFITTING_EVERY, 4),
        "held_out_loss": subject.cost(lambda: _held_out_loss(stage))[1],
        "samples": subject.cost(lambda: _samples(stage))[1],
        "notes": stage.take_notes(),
    }


def two_samplers(subject: Subject, pixels: int) -> dict[str, Any]:
    """Steps of stage 2 with a LoRA for two samplers, at the fewest pictures that this takes."""
    stage, made = subject.cost(
        lambda: subject.stage_2(
            pixels, watch_pictures=FEW_WATCHED, target="two_samplers", few_step_guidance=10.0, batch_size=1
        )
    )
    step = _steps(stage)
    _, first = subject.cost(step)
    step()
    seconds, steps = subject.cost(lambda: subject.median(step))
    return {"made": made, "first_step": first, "steps": steps, "seconds_without_held_out": round(seconds, 4)}


def plain(subject: Subject, pixels: int, adapter: str) -> dict[str, Any]:
    """Steps of a plain diffusers + PEFT loop on the same weights."""
    step = plain_loop(
        subject.transformer(), subject.data(pixels), rank=RANK, batch_size=1, checkpointing=True, adapter=adapter
    )
    subject.each(step, WARM_UP)
    seconds, steps = subject.cost(lambda: subject.median(step))
    return {"steps": steps, "seconds": round(seconds, 4)}


def capped(subject: Subject, pixels: int, caps: Sequence[int]) -> dict[str, Any]:
    """Which stages run within each of ``caps`` (rising, GiB of the device, its context not counted), until both do."""
    cuda = subject.device.type == "cuda"
    found: dict[str, Any] = {}
    for cap in caps:
        if cuda:
            torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 2**30 / torch.cuda.mem_get_info()[1]))
        try:
            outcomes = {}
            for name, make in (("stage 1", subject.stage_1), ("stage 2", subject.stage_2)):
                subject.settle()
                outcomes[name] = _outcome(subject, make, pixels)
        finally:
            if cuda:
                torch.cuda.set_per_process_memory_fraction(1.0)
        found[f"{cap} GiB"] = outcomes
        if all(each["runs"] for each in outcomes.values()):
            break
    return found


def _outcome(subject: Subject, make: Callable[..., Stage], pixels: int) -> dict[str, Any]:
    at = "making the stage"
    try:
        stage = make(pixels)
        step = _steps(stage)
        for number in range(CAPPED_STEPS):
            at = f"step {number + 1}"
            _, cost = subject.cost(step)
        at = "held-out loss"
        _held_out_loss(stage)
    except torch.OutOfMemoryError:
        return {"runs": False, "out_of_memory_in": at}
    return {"runs": True, **cost, "notes": stage.take_notes()}


def compiled(subject: Subject, pixels: int, make: Callable[..., Stage], warm_up: int) -> dict[str, Any]:
    """Steps with the forward of every block compiled for any size, and what compiling takes.

    ``warm_up``: steps until each kind of call has been made.
    """
    backend = "inductor" if subject.device.type == "cuda" else "aot_eager"
    counters.clear()
    settings = {"recompile_limit": RECOMPILE_LIMIT, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(settings):
        stage, made = subject.cost(lambda: make(pixels))
        for block in stage.base.blocks:
            block.forward = torch.compile(block.forward, dynamic=True, backend=backend)
        step = _steps(stage)
        warming = [seconds for seconds, _ in subject.each(step, warm_up)]
        timed, steps = subject.cost(lambda: subject.each(step, TIMED))
    looked = "held_out_logits"
    seconds = statistics.median(each for each, values in timed if looked not in values)
    return {
        "made": made,
        "steps": steps,
        "seconds": round(seconds, 4),
        "compile_seconds": round(sum(warming) - seconds * warm_up, 2),
        "slowest_timed_step": round(max(each for each, _ in timed), 4),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def summary(found: dict[str, dict[str, Any]], sides: Sequence[int]) -> dict[str, Any]:
    """Ratios of the rows that are there, and by how many GiB measurements exceed the peak of a step."""
    ratios: dict[str, Any] = {}

    def ratio(name: str, above: tuple[str, str], below: tuple[str, str]) -> None:
        values = [found.get(row, {}).get(key) for row, key in (above, below)]
        if all(values):
            ratios[name] = round(values[0] / values[1], 3)

    for side in sides:
        at = f", {side} px"
        ours = (f"stage 1{at}", "seconds")
        for name in ("autocast", "bf16", "fp32"):
            ratio(f"plain {name} over stage 1{at}", (f"plain {name}{at}", "seconds"), ours)
        ratio(f"stage 2 over stage 1{at}", (f"stage 2{at}", "seconds"), ours)
        ratio(f"the same without held-out pictures{at}", (f"stage 2{at}", "seconds_without_held_out"), ours)
        ratio(f"two samplers over stage 1{at}", (f"two samplers{at}", "seconds_without_held_out"), ours)
        ratio(f"stage 1 over compiled{at}", ours, (f"stage 1 compiled{at}", "seconds"))
        compiled_2 = (f"stage 2 compiled{at}", "seconds")
        ratio(f"stage 2 over compiled{at}", (f"stage 2{at}", "seconds_without_held_out"), compiled_2)
        ratio(f"share of the large product{at}", (f"stage 1{at}", "tflops"), ("ceilings", "bf16_tflops"))
        for row in (f"stage 1{at}", f"stage 2{at}"):
            costs = found.get(row, {})
            peaks = {name: costs[name]["peak"] for name in ("steps", *MEASUREMENTS) if "peak" in costs.get(name, ())}
            step = peaks.pop("steps", None)
            if step is not None:
                beyond = {name: round(peak - step, 3) for name, peak in peaks.items()}
                ratios[f"measurements beyond a step, {row}"] = beyond
    return ratios


def _steps(stage: Stage) -> Callable[[], dict[str, float]]:
    numbers = iter(range(stage.total))
    return lambda: stage.step(next(numbers))


def _held_out_loss(stage: Stage) -> float:
    few = dataclasses.replace(stage.data, held_out=stage.data.held_out[:FEW_HELD_OUT])
    with stage.delivered_weights():
        return metrics.held_out_flow_loss(
            stage.base, few, stage.config.guidance, batch_size=stage.config.batch_size
        )


def _samples(stage: AdversarialStage) -> Any:
    with stage.delivered_weights():
        return stage.watch._examiner.examine(stage.base, None, lambda: None)
