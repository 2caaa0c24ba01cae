"""Both stages on the tiny base, as a process that may be killed trains them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

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


class Told:
    """A reporter that writes a line about each step and note, with the time, so that whoever kills knows where.

    A measurement asks whether to stop more than the once that each step does.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._asked = 0

    def _write(self, text: str) -> None:
        with open(self._file, "a") as file:
            file.write(f"{time.monotonic():.4f} {text}\n")

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self._asked = 0
        self._write(f"{stage} {step}")

    def preview(self, step: int, latents: Tensor) -> None:
        pass

    def note(self, step: int, text: str) -> None:
        self._write(f"note {text}")

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        self._write(f"resumed {stage} {int(records[-1]['step']) if records else 0}")

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


def train(folder: Path, judge: str) -> None:
    """Stage 1, then stage 2 from its LoRA."""
    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=4, alpha=4.0))
    reporter = Told(beside(folder, "told"))
    common = {"device": "cpu", "reporter": reporter}
    first = train_diffusion_stage(start, data(), STAGE_1, run_folder=folder / "diffusion", **common)
    train_adversarial_stage(
        first.lora, data(), JUDGES[judge], STAGE_2, run_folder=folder / "adversarial", **common
    )


def run(folder: Path, judge: str, last_operation: int) -> None:
    """What a process does. It kills itself at the file operation ``last_operation`` of its runs, if there is one."""
    torch.set_num_threads(1)

    def kill(number: int, name: str, place: str) -> None:
        if number == last_operation:
            beside(folder, "killed_at").write_text(f"{name} {place}")
            os.kill(os.getpid(), signal.SIGKILL)

    with Operations(within=folder, before=kill) as operations:
        train(folder, judge)
    told = list(zip(operations.names, operations.places, strict=True))
    beside(folder, "operations").write_text(json.dumps(told))
