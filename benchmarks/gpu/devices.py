"""Does a GPU train the same LoRA as the CPU? Both stages on the built-in base, in fp32 and in bf16.

    python -m fluxduel.benchmarks.gpu.devices [--steps 20] [--out differences.jsonl]

One JSON line for each stage and precision. ``loss`` and ``lora``: the largest difference from the CPU's run, as a share
of the CPU's largest value of that loss or tensor; ``update``: the norm of all differences as a share of what training
has changed; ``again``: whether a second run is equal bit for bit; ``resumed``: whether a run is that was stopped
half-way and went on; ``again_apart`` and ``resumed_apart``: how far they are apart where not. Without a GPU the CPU is
compared with itself, as a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxduel.benchmarks.step import synthetic_data
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.preview_sheet import Row
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.stage import StageResult

STAGES = ("diffusion", "adversarial")
SIDE, BATCH_SIZE = 16, 2


class Sitting:
    """A reporter that says nothing, and stops before step ``stop_before``, counted from 0."""

    def __init__(self, stop_before: int | None = None) -> None:
        self._stop_before, self._done = stop_before, 0

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self._done = step

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None: ...

    def note(self, step: int, text: str) -> None: ...

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None: ...

    def should_stop(self) -> bool:
        return self._stop_before is not None and self._done >= self._stop_before


def train(
    stage: str,
    start: FluxLoRA,
    data: RealLatents,
    steps: int,
    device: str,
    run_folder: Path | None = None,
    stop_before: int | None = None,
) -> StageResult:
    """A run of ``steps`` updates with the stage's defaults, held-out loss included.

    Without the watch, which might deliver the start: that is equal everywhere.
    """
    common = {"steps": steps, "batch_size": BATCH_SIZE, "validate_every": steps // 2}
    given = {"device": device, "reporter": Sitting(stop_before), "run_folder": run_folder}
    if stage == "diffusion":
        return train_diffusion_stage(start, data, DiffusionStageConfig(**common), **given)
    config = AdversarialStageConfig(**common, discriminator_warmup=4, watch=False)
    return train_adversarial_stage(start, data, DiscriminatorConfig(), config, **given)


def apart(one: StageResult, other: StageResult, start: FluxLoRA) -> dict[str, float]:
    """The largest difference of ``one`` from ``other``, as a share of the largest value there, in losses and LoRA.

    ``first_step``: the same for the losses up to the LoRA's first update, which has not yet enlarged the difference.
    ``update``: the norm of the difference as a share of that of all that training has changed since ``start``.
    """
    names = [name for name in other.log.records[-1] if name.endswith("_loss")]
    pairs = list(zip(one.log.records, other.log.records, strict=True))

    def of(name: str, chosen: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> float:
        both = [(a[name], b[name]) for a, b in chosen if name in a and name in b]
        return max((abs(a - b) for a, b in both), default=0.0) / max((abs(b) for _, b in both), default=1.0)

    begun = next(i for i, (_, theirs) in enumerate(pairs) if names[0] in theirs)
    ours, theirs = one.lora.tensors, other.lora.tensors
    tensors = [((ours[k] - t).abs().max() / t.abs().max().clamp_min(1e-12)).item() for k, t in theirs.items()]
    difference, change = (
        torch.cat([(a[key] - theirs[key]).flatten() for key in theirs]).norm().item() for a in (ours, start.tensors)
    )
    return {
        "loss": max(of(name, pairs) for name in names),
        "first_step": max(of(name, pairs[: begun + 1]) for name in names),
        "lora": max(tensors),
        "update": difference / change,
    }


def equal(one: StageResult, other: StageResult) -> bool:
    """Whether both delivered the same LoRA, bit for bit."""
    return all(torch.equal(one.lora.tensors[key], tensor) for key, tensor in other.lora.tensors.items())


def compare(stage: str, start: FluxLoRA, data: RealLatents, steps: int, device: str) -> dict[str, object]:
    """The differences of one stage between the CPU and ``device``, and between runs on ``device``."""
    on_cpu = train(stage, start, data, steps, "cpu")
    first, second = (train(stage, start, data, steps, device) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        stopped = train(stage, start, data, steps, device, run, stop_before=steps // 2)
        resumed = train(stage, start, data, steps, device, run)
    return {
        "stage": stage,
        "precision": start.base.precision,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "steps": steps,
        **apart(first, on_cpu, start),
        "again": equal(second, first),
        "again_apart": apart(second, first, start)["lora"],
        "stopped": stopped.stopped,
        "resumed": equal(resumed, first),
        "resumed_apart": apart(resumed, first, start)["lora"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a file to which the lines are appended")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = synthetic_data(SIDE, 128, 64)
    for precision in ("fp32", "bf16"):
        start = lora.create(BaseReference(TINY_BASE, precision), LoRAConfig())
        for stage in STAGES:
            line = json.dumps(compare(stage, start, data, options.steps, device))
            print(line, flush=True)
            if options.out:
                with options.out.open("a") as stream:
                    stream.write(line + "\n")


if __name__ == "__main__":
    main()
