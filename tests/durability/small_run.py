"""A run of either stage that takes a second, on the tiny base, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
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
from fluxduel.training.runs.fingerprints import Fingerprint, fingerprint
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.stage import StageResult

STAGE_1 = DiffusionStageConfig(
    steps=4, batch_size=1, learning_rate=1e-3, validate_every=2, checkpoint_every=1, keep_last=1
)
STAGE_2 = AdversarialStageConfig(
    steps=3, batch_size=1, learning_rate=1e-3, discriminator_warmup=1, validate_every=0, checkpoint_every=2,
    keep_last=1,
)  # fmt: skip
JUDGE = DiscriminatorConfig(architecture="cnn", width=8, depth=1, learning_rate=1e-3)
STAGES = {"diffusion": STAGE_1, "adversarial": STAGE_2}


class Noted:
    """A reporter that keeps the notes, and what the run went on from."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.new_steps: list[int] = []
        self.earlier_steps: list[int] = []

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self.new_steps.append(step)

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        pass

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        self.earlier_steps = [int(record["step"]) for record in records]

    def note(self, step: int, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        return False


class StoppedAfter(Noted):
    """It asks to stop once this step is done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def should_stop(self) -> bool:
        return self._step in self.new_steps


@cache
def start_and_data() -> tuple[FluxLoRA, RealLatents]:
    full = synthetic_data(8, 128, 64)
    data = RealLatents(full.samples[:6], full.prompts[:6], full.empty_prompt, (4, 5), "faults")
    return lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0, targets="attention")), data


def train(folder: Path, reporter: Noted | None = None, stage: str = "diffusion", **changes: Any) -> StageResult:
    start, data = start_and_data()
    torch.set_num_threads(1)
    config = dataclasses.replace(STAGES[stage], **changes)
    common = {"device": "cpu", "reporter": reporter or Noted(), "run_folder": folder}
    if stage == "diffusion":
        return train_diffusion_stage(start, data, config, **common)
    return train_adversarial_stage(start, data, JUDGE, config, **common)


def wanted(**changes: Any) -> Fingerprint:
    """The fingerprint of stage 1."""
    return fingerprint("diffusion", *start_and_data(), dataclasses.replace(STAGE_1, **changes))


def assert_same(one: StageResult, other: StageResult) -> None:
    """The same LoRA and the same records, bit for bit."""
    assert one.lora.tensors.keys() == other.lora.tensors.keys()
    assert all(torch.equal(tensor, other.lora.tensors[key]) for key, tensor in one.lora.tensors.items())
    assert one.log.records == other.log.records


def assert_same_files(one: Path, other: Path) -> None:
    """What two finished runs left in their folders is the same, and nothing of an unfinished write is there."""
    assert (one / "stats.jsonl").read_bytes() == (other / "stats.jsonl").read_bytes()
    for file in one.glob("*.safetensors"):
        expected, found = load_file(file), load_file(other / file.name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    assert not [path for path in other.rglob(".*") if path.name != ".lock"]
