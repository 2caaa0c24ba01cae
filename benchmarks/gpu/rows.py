"""The measurements of both stages at one picture size: memory, time, compiled blocks, a plain loop beside them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fluxduel.benchmarks.plain_loop import plain_loop
from fluxduel.benchmarks.step import mean_operations
from fluxduel.training.base import compiling
from fluxduel.training.evidence import metrics
from fluxduel.training.stages import previews
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.overfitting import OVERFITTING_EVERY
from fluxduel.training.stages.stage import Stage

from .subject import RANK, TIMED, WARM_UP, Subject, gib

# What a measurement needs at once does not depend on how often it is repeated.
FEW_HELD_OUT, FEW_WATCHED, FEW_STEPS = 2, 4, 2
# Steps of stage 2 until each kind of call has been made.
WARM_UP_COMPILED = 3


def load(subject: Subject) -> dict[str, Any]:
    """The size of what is on the device before anything is trained, and how long its random weights take to make."""
    base, made = subject.cost(lambda: subject.shelf(subject.reference, subject.device))
    weights = [*base.transformer.parameters()]
    start = subject.start("bf16")
    sizes = {
        "made": made,
        "weights_gib": gib(sum(weight.nbytes for weight in weights)),
        "parameters": sum(weight.numel() for weight in weights),
        "lora_parameters": sum(tensor.numel() for tensor in start.tensors.values()),
    }
    if subject.device.type == "cuda":
        sizes |= {"allocated": gib(torch.cuda.memory_allocated()), "card": gib(torch.cuda.mem_get_info()[1])}
    return sizes


def stage_1(subject: Subject, pixels: int) -> dict[str, Any]:
    """Steps of stage 1 in bf16, their executed operations, and each of its measurements alone."""
    stage, made = subject.cost(lambda: subject.stage_1(pixels, preview_steps=FEW_STEPS))
    step = steps_of(stage)
    values, first = subject.cost(step)
    step()
    seconds, steps = subject.cost(lambda: subject.median(step))
    subject.alone["bf16", pixels] = seconds
    operations = mean_operations(step, 1)
    return {
        "made": made,
        "first_step": first,
        "at_first": told(values),
        "steps": steps,
        "seconds": round(seconds, 4),
        "tflop": round(operations / 1e12, 3),
        "tflops": round(operations / 1e12 / seconds, 3),
        "held_out_loss": subject.cost(lambda: _held_out_loss(stage))[1],
        "preview": subject.cost(lambda: previews.draw(stage, lambda: None))[1],
    }


def in_precision(subject: Subject, pixels: int, precision: str) -> dict[str, Any]:
    """Steps of stage 1 on a base in ``precision``, every block of it on the device; ``notes``: by which kernel."""
    stage, made = subject.cost(lambda: subject.stage_1(pixels, precision))
    step = steps_of(stage)
    values = subject.each(step, WARM_UP)[0][1]
    seconds, steps = subject.cost(lambda: subject.median(step))
    subject.alone[precision, pixels] = seconds
    return {
        "made": made,
        "steps": steps,
        "seconds": round(seconds, 4),
        "at_first": told(values),
        "notes": stage.take_notes(),
    }


def stage_2(subject: Subject, pixels: int) -> dict[str, Any]:
    """Steps of stage 2 with its defaults, with and without the look at held-out pictures, and its measurements."""
    stage, made = subject.cost(lambda: subject.stage_2(pixels, watch_pictures=FEW_WATCHED))
    step = steps_of(stage)
    begun, first = subject.cost(step)
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
        "at_first": told(begun),
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
    step = steps_of(stage)
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


def compiled(subject: Subject, make: Callable[[], Stage]) -> dict[str, Any]:
    """Steps with ``compile_blocks``, and what compiling takes; ``notes``: where the engine ran blocks as they are."""
    with _compiler(subject.device):
        stage, made = subject.cost(make)
        step = steps_of(stage)
        warming = subject.each(step, WARM_UP_COMPILED)
        timed, steps = subject.cost(lambda: subject.each(step, TIMED))
    # A look at held-out pictures, which a step of stage 2 may hold, is not timed.
    seconds = statistics.median(each for each, values in timed if "held_out_logits" not in values)
    return {
        "made": made,
        "steps": steps,
        "seconds": round(seconds, 4),
        "compile_seconds": round(sum(each for each, _ in warming) - seconds * WARM_UP_COMPILED, 2),
        "at_first": told(warming[0][1]),
        "slowest_timed_step": round(max(each for each, _ in timed), 4),
        "graphs": 0 if stage.compiled is None else stage.compiled.graphs,
        "notes": stage.take_notes(),
    }


@contextmanager
def _compiler(device: torch.device) -> Iterator[None]:
    """On the CPU, where the engine compiles nothing, have its functions traced and run as they are: a rehearsal."""
    if device.type in compiling.BACKENDS:
        yield
        return
    compiling.BACKENDS[device.type] = "eager"
    try:
        yield
    finally:
        del compiling.BACKENDS[device.type]


def told(values: dict[str, float]) -> dict[str, float]:
    """What rows of one stage at one size have in common in their first step, as far as formats and kernels are right.

    All draw the same pictures and noise there.
    """
    return {name: values[name] for name in ("diffusion_loss", "adversarial_loss", "grad_norm") if name in values}


def steps_of(stage: Stage) -> Callable[[], dict[str, float]]:
    """The stage's next step, at each call."""
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
