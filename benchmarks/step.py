"""Time of a training step against a plain diffusers + PEFT loop on the same model, in the same run.

    python -m benchmarks.step [--repeats 9] [--steps 8] [--batch-size 4] [--side 16]

Prints one JSON line last, of ratios of a step's time. Each is the median, over the repeats, of the ratio of two blocks
of steps that ran one after the other. All are of the built-in base on the CPU, of equal batch.

- ``stage1_over_plain``: stage 1 in fp32 over the plain loop.
- ``x0``, ``jump``, ``two_samplers``: stage 2 with that target over stage 1; one update of LoRA and discriminator, with
  the settings that it has by default. Pictures are held out, so that the looks at them within a step count.
- ``int8_over_bf16``, ``convrot_over_bf16``: stage 1 on a base in int8, or int8_convrot, over one in bf16. The CPU's
  integer products are torch's own; on a card other kernels do them.
- ``streamed``: stage 1 with all blocks streamed over stage 1, both in fp32. The core that computes does the copies,
  too: nothing is hidden here.

``operations``: stage 2 over stage 1 in floating-point operations, as torch counts them. ``validation``: a whole
measurement, with the watch's samples, in steps of its stage, by operations and as the run's own note has it; not of
int8, whose products torch does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from fluxduel.benchmarks.plain_loop import plain_loop
from fluxduel.training.base.base_model import TINY_BASE_FOLDER, BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import Stage

RANK = 16
TARGETS = ("x0", "jump", "two_samplers")
INTEGERS = ("int8", "int8_convrot")
PROMPT_LENGTH = 16


def synthetic_data(
    side: int, context_dim: int, pooled_dim: int, *, length: int = PROMPT_LENGTH, count: int = 40, held_out: int = 8
) -> RealLatents:
    """Random latents with captions of their own, the last ones held out: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    prompts = tuple(Prompt(str(i), draw(length, context_dim), draw(pooled_dim)) for i in range(count))
    samples = tuple(LatentSample(str(i), draw(16, side, side), None, None, None, None, i) for i in range(count))
    return RealLatents(samples, prompts, prompts[0], tuple(range(count - held_out, count)), "benchmark")


def seconds(step: Callable[[], object], steps: int) -> float:
    """Seconds for ``steps`` calls."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - started


def mean_operations(step: Callable[[], object], count: int) -> float:
    """Floating-point operations of a call, the mean of ``count``: the penalty's share of samples varies."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(count):
            step()
    return counter.get_total_flops() / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="steps a block; 8 hold one look at held-out pictures")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--side", type=int, default=16, help="side of the latents")
    parser.add_argument("--no-checkpointing", action="store_true")
    options = parser.parse_args()

    checkpointing = not options.no_checkpointing
    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=RANK, alpha=RANK))
    data = synthetic_data(options.side, 128, 64)
    shared = dict(batch_size=options.batch_size, gradient_checkpointing=checkpointing, steps=100_000)
    stage1 = DiffusionStage(start, data, DiffusionStageConfig(**shared), device="cpu")
    folder = TINY_BASE_FOLDER / "transformer"
    transformer = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    counter = iter(range(10**9))

    def stepper(stage: Stage) -> Callable[[], object]:
        return lambda: stage.step(next(counter))

    stages: dict[str, Stage] = {"stage1": stage1}
    contenders = {
        "plain": plain_loop(
            transformer, data, rank=RANK, batch_size=options.batch_size, checkpointing=checkpointing
        ),
        "stage1": stepper(stage1),
    }
    for precision in ("bf16", *INTEGERS):
        on = lora.create(BaseReference(TINY_BASE, precision), LoRAConfig(rank=RANK, alpha=RANK))
        stages[precision] = DiffusionStage(on, data, DiffusionStageConfig(**shared), device="cpu")
    if checkpointing:
        config = DiffusionStageConfig(**shared, streamed_share=1.0)
        stages["streamed"] = DiffusionStage(start, data, config, device="cpu")
    contenders |= {name: stepper(stage) for name, stage in stages.items()}
    for target in TARGETS:
        config = AdversarialStageConfig(**shared, target=target, discriminator_warmup=0, few_step_guidance=10.0)
        stages[target] = AdversarialStage(start, data, DiscriminatorConfig(), config, device="cpu")
        contenders[target] = stepper(stages[target])
    # Before the first step: in a warm-up, or after a step without a start to compare with, the watch does not sample.
    validations = {
        name: mean_operations(lambda stage=stage: stage.validate(lambda: None), 1)
        for name, stage in stages.items()
        if name not in INTEGERS
    }
    operations = {name: mean_operations(step, 8) for name, step in contenders.items()}
    for step in contenders.values():
        seconds(step, 2)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.repeats):
        for name, step in contenders.items():
            times[name].append(seconds(step, options.steps) / options.steps)
    pairs = {
        "stage1_over_plain": ("stage1", "plain"),
        **{target: (target, "stage1") for target in TARGETS},
        "int8_over_bf16": ("int8", "bf16"),
        "convrot_over_bf16": ("int8_convrot", "bf16"),
        **({"streamed": ("streamed", "stage1")} if checkpointing else {}),
    }
    ratios = {
        name: [a / b for a, b in zip(times[one], times[other], strict=True)] for name, (one, other) in pairs.items()
    }
    for name, values in times.items():
        print(f"{name:12} {statistics.median(values) * 1000:8.1f} ms a step, median of {len(values)} blocks")
    for name, values in ratios.items():
        print(f"{name}: {min(values):.3f} to {max(values):.3f}")
    medians: dict[str, Any] = {name: round(statistics.median(values), 4) for name, values in ratios.items()}
    counted = {name: round(operations[name] / operations["stage1"], 4) for name in TARGETS}
    print(f"operations over stage 1: {counted}")
    medians["operations"] = counted
    medians["validation"] = {}
    for name, measured in validations.items():
        stage = stages[name]
        expected = sum(stage.evaluations(0).values()) / (options.batch_size * stage.evaluations_per_picture)
        medians["validation"][name] = {
            "steps": round(measured / operations[name], 1), "in the note": round(expected, 1)
        }  # fmt: skip
    print(f"a validation, in steps of its stage: {medians['validation']}")
    print(
        json.dumps(medians | {"batch_size": options.batch_size, "side": options.side, "checkpointing": checkpointing})
    )


if __name__ == "__main__":
    main()
