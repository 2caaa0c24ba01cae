"""A FLUX-shaped transformer with random weights, a LoRA on it and data for it: for tests of the mathematics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fluxduel.tests.engine.small import CONTEXT, LENGTH, SMALL_FLUX_1, Small
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import LoRAConfig
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
from fluxduel.training.evidence.preview_sheet import Row
from fluxduel.training.lora.adapter import FluxLoRA, create

POOLED = SMALL_FLUX_1.pooled


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest) -> Small:
    """That of the base in a test: FLUX.1, or each in turn where the test is marked ``each_family``."""
    return getattr(request, "param", SMALL_FLUX_1)


@pytest.fixture(scope="session")
def random_transformer(family: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small transformer, every weight of it random."""
    return family.save(tmp_path_factory.mktemp("random-transformer"))


@pytest.fixture(scope="session")
def wide_transformer(family: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one with so wide and so many blocks that 8 bits and streaming make it smaller."""
    folder = tmp_path_factory.mktemp("wide-transformer")
    family.transformer(4, 4, num_attention_heads=16).save_pretrained(folder)
    return folder


@pytest.fixture
def reference(random_transformer: Path) -> BaseReference:
    return BaseReference(str(random_transformer), "fp32")


@pytest.fixture
def start(reference: BaseReference) -> FluxLoRA:
    """A LoRA that already does something: its B is random, so that both of its halves have gradients."""
    lora = create(reference, LoRAConfig(rank=3, alpha=6.0))
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randn(t.shape, generator=generator) * 0.05 if name.endswith("lora_B.weight") else t
        for name, t in lora.tensors.items()
    }
    return FluxLoRA(reference, lora.config, tensors)


def make_data(
    count: int = 8, held_out: int = 2, side: int = 4, seed: int = 0, length: int = LENGTH, small: Small = SMALL_FLUX_1
) -> RealLatents:
    """``count`` random latents with a posterior, each with a caption of its own; the last ones held out."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    prompts = tuple(Prompt(f"caption {i}", draw(length, CONTEXT), draw(small.pooled)) for i in range(count))
    samples = tuple(
        LatentSample(
            name=f"picture {i}",
            mean=draw(small.channels, side, side),
            std=torch.full((small.channels, side, side), 0.1),
            flipped_mean=None,
            flipped_std=None,
            mask=None,
            prompt=i,
        )
        for i in range(count)
    )
    return RealLatents(
        samples=samples,
        prompts=prompts,
        empty_prompt=Prompt("", draw(length, CONTEXT), draw(small.pooled)),
        held_out=tuple(range(count - held_out, count)),
        fingerprint=f"test/{seed}",
    )


def with_phrase(data: RealLatents) -> RealLatents:
    """The same data with a few-step phrase, whose encodings are other random numbers of the same shape."""
    generator = torch.Generator().manual_seed(77)

    def phrased(prompt: Prompt) -> Prompt:
        embeds, pooled = (
            torch.randn(t.shape, generator=generator, dtype=t.dtype)
            for t in (prompt.prompt_embeds, prompt.pooled_prompt_embeds)
        )
        return Prompt(f"fast, {prompt.caption}", embeds, pooled)

    return dataclasses.replace(
        data,
        few_step_prompts=tuple(phrased(prompt) for prompt in data.prompts),
        few_step_empty_prompt=phrased(data.empty_prompt),
        few_step_phrase="fast",
    )


def practice_prompts(seed: int = 5, small: Small = SMALL_FLUX_1) -> tuple[Prompt, ...]:
    """Five prompts without pictures, of two lengths: neither is the captions'."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (LENGTH + 1, LENGTH + 2, LENGTH + 1, LENGTH + 2, LENGTH + 1)
    return tuple(
        Prompt(
            f"practice {i}",
            torch.randn(n, CONTEXT, generator=generator),
            torch.randn(small.pooled, generator=generator),
        )
        for i, n in enumerate(lengths)
    )


@pytest.fixture
def data(family: Small) -> RealLatents:
    return make_data(small=family)


class Recorder:
    """A reporter that remembers, and asks to stop before step ``stop_before`` (counted from 1)."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.records: list[dict[str, float]] = []
        self.previews: list[torch.Tensor] = []
        self.shown: list[tuple[int, tuple[Row, ...]]] = []
        self.delivered: list[int | None] = []
        self.notes: list[tuple[int, str]] = []
        self.earlier: list[dict[str, float]] = []
        self._stop_before = stop_before
        self._polled = 0

    def scalars(self, stage: str, step: int, total: int, values: dict[str, float]) -> None:
        self.records.append({"stage": stage, "step": step, "total": total, **values})

    def preview(self, step: int, latents: torch.Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        self.previews.append(latents)
        self.shown.append((step, tuple(rows)))
        self.delivered.append(delivered)

    def note(self, step: int, text: str) -> None:
        self.notes.append((step, text))

    def resumed(self, stage: str, total: int, records: Sequence[dict], notes: Sequence[tuple[int, str]]) -> None:
        self.earlier = list(records)

    def should_stop(self) -> bool:
        self._polled += 1
        return self._stop_before is not None and self._polled >= self._stop_before
