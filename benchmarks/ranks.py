"""Throughput of two ranks, each on a core of its own, against one rank on one core, for both stages.

    python -m fluxduel.benchmarks.ranks [--repeats 3] [--steps 12] [--batch-size 4]

Each rank is a process that is pinned to a core and computes with one thread; the baseline ``one`` is the same process
alone. ``diffusion`` and ``adversarial`` in the JSON line that is printed last: images a second of two ranks over those
of one, the median over the repeats; 2 would be no loss at all. A machine that is busy otherwise makes it worse.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed

from fluxduel.benchmarks.step import synthetic_data
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.ranks import Ranks
from fluxduel.training.stages.stage import Stage

STAGES = ("diffusion", "adversarial")
WARM_UP = 3


def make_stage(name: str, batch_size: int, ranks: Ranks) -> Stage:
    """A stage on the tiny base with synthetic latents, which measures nothing in between."""
    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig())
    data = synthetic_data(16, 128, 64)
    common = {"batch_size": batch_size, "steps": 10_000, "validate_every": 0, "gradient_checkpointing": False}
    if name == "diffusion":
        return DiffusionStage(start, data, DiffusionStageConfig(**common), device="cpu", ranks=ranks)
    config = AdversarialStageConfig(**common, discriminator_warmup=0, discriminator_ratio="fixed")
    return AdversarialStage(start, data, DiscriminatorConfig(), config, device="cpu", ranks=ranks)


def measure(name: str, rank: int, count: int, meeting: Path, options: argparse.Namespace) -> None:
    """One rank: pinned, warmed up, timed; the first writes its seconds a step to the standard output."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    if count > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    stage = make_stage(name, options.batch_size, Ranks.current(torch.device("cpu")))
    for step in range(WARM_UP):
        stage.step(step)
    if count > 1:
        distributed.barrier()
    started = time.perf_counter()
    for step in range(WARM_UP, WARM_UP + options.steps):
        stage.step(step)
    if rank == 0:
        print((time.perf_counter() - started) / options.steps)
    if count > 1:
        distributed.destroy_process_group()


def seconds_a_step(name: str, count: int, options: argparse.Namespace) -> float:
    """Of ``count`` ranks, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--steps", str(options.steps), "--batch-size", str(options.batch_size)]
        place = [name, str(count), str(Path(folder) / "meeting")]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "fluxduel.benchmarks.ranks", "--rank", str(rank), *place, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for rank in range(count)
        ]
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            raise SystemExit("A rank has failed; see above.")
    return float(outputs[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4, help="of each rank")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("place", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        name, count, meeting = options.place
        measure(name, options.rank, int(count), Path(meeting), options)
        return
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("Two ranks need two cores.")
    result: dict[str, float] = {}
    for name in STAGES:
        pairs = [(seconds_a_step(name, 1, options), seconds_a_step(name, 2, options)) for _ in range(options.repeats)]
        ratios = [2 * one / two for one, two in pairs]
        one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:12} one {one:.3f} s/step, two {two:.3f} s/step, throughput {statistics.median(ratios):.2f} x one")
        result[name] = round(statistics.median(ratios), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
