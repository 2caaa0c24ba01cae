"""Both stages on the tiny base, as a process that may be killed trains them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fluxduel.benchmarks.step import synthetic_data
from fluxduel.tests.durability.file_operations import Operations
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data import real_latents
from fluxduel.training.evidence.preview_sheet import Row
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage

STAGE_1 = DiffusionStageConfig(
    steps=12, batch_size=2, learning_rate=1e-3, lr_schedule="cosine", validate_every=4, checkpoint_every=3,
    keep_last=1, caption_dropout=0.2,
)  # fmt: skip
STAGE_2 = AdversarialStageConfig(
    steps=10, batch_size=2, learning_rate=1e-3, discriminator_warmup=2, validate_every=4, checkpoint_every=3,
    keep_last=1, target_steps=2, watch_pictures=4, balance="gradient_ratio",
)  # fmt: skip
JUDGES = {
    "heads": DiscriminatorConfig(width=16, learning_rate=1e-3, mismatched_share=0.5),
    "patch_cnn": DiscriminatorConfig(
        architecture="patch_cnn", width=8, loss="hinge", spectral_norm=True, lecam=0.3, replay_share=0.5,
        augmentation_probability=0.3, learning_rate=1e-3,
    ),
}  # fmt: skip


# How far a run is: the number of the stage, and of the step.
Place = tuple[int, int]
STAGES = ("diffusion", "adversarial")


class Work(TorchDispatchMode):
    """Counts what the process does, operations of torch and of files, and kills it in the midst of them.

    ``kill_at``: how many operations after the run has come to a place, and at the latest when it comes to the next: so
    the moment is the same on a busy machine and on an idle one.
    """

    def __init__(self, kill_at: tuple[Place, int] | None) -> None:
        super().__init__()
        self.done = 0
        self._kill_at, self._left = kill_at, -1

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.another()
        return operation(*arguments, **(options or {}))

    def another(self) -> None:
        self.done += 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= self._left > 0

    def reached(self, place: Place) -> None:
        if self._left > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kill_at is not None and place >= self._kill_at[0]:
            self._left = self._kill_at[1]


class Told:
    """A reporter that writes a line about each step and note, with the work done so far.

    A measurement asks whether to stop more than the once that each step does.
    """

    def __init__(self, file: Path, work: Work) -> None:
        self._file, self._work = file, work
        self._asked = 0

    def _write(self, text: str, place: Place | None = None) -> None:
        with open(self._file, "a") as file:
            file.write(f"{self._work.done} {text}\n")
        if place is not None:
            self._work.reached(place)

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self._asked = 0
        self._write(f"{stage} {step}", (STAGES.index(stage), step))

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        pass

    def note(self, step: int, text: str) -> None:
        self._write(f"note {text}")

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        step = int(records[-1]["step"]) if records else 0
        self._write(f"resumed {stage} {step}", (STAGES.index(stage), step))

    def should_stop(self) -> bool:
        self._asked += 1
        if self._asked > 1:
            self._write("measuring")
        return False


def data() -> real_latents.RealLatents:
    """Synthetic latents for the tiny base, a part of them held out."""
    full = synthetic_data(16, 128, 64)
    return real_latents.RealLatents(
        full.samples[:12], full.prompts[:12], full.empty_prompt, (8, 9, 10, 11), "durability"
    )


def beside(folder: Path, what: str) -> Path:
    """A file about the run, outside of its folder."""
    return folder.with_name(f"{folder.name}.{what}")


def train(folder: Path, judge: str, work: Work) -> None:
    """Stage 1, then stage 2 from its LoRA."""
    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=4, alpha=4.0))
    reporter = Told(beside(folder, "told"), work)
    common = {"device": "cpu", "reporter": reporter}
    first = train_diffusion_stage(start, data(), STAGE_1, run_folder=folder / "diffusion", **common)
    train_adversarial_stage(
        first.lora, data(), JUDGES[judge], STAGE_2, run_folder=folder / "adversarial", **common
    )


def run(folder: Path, judge: str, last_operation: int, kill_at: tuple[Place, int] | None) -> None:
    """What a process does. It kills itself at the file operation ``last_operation`` of its runs, or at ``kill_at``."""
    torch.set_num_threads(1)
    work = Work(kill_at)

    def kill(number: int, name: str, place: str) -> None:
        work.another()
        if number == last_operation:
            beside(folder, "killed_at").write_text(f"{name} {place}")
            os.kill(os.getpid(), signal.SIGKILL)

    with Operations(within=folder, before=kill) as operations, work:
        train(folder, judge, work)
    told = list(zip(operations.names, operations.places, strict=True))
    beside(folder, "operations").write_text(json.dumps(told))
