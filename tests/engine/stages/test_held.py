"""A stage says how its base lies in memory where that is more than its plain number format."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.training.base import held, int8_kernels
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.frozen_linear import FrozenLinear
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import Stage

from ..conftest import make_data

SMALL: dict[str, Any] = {"steps": 2, "batch_size": 2, "lr_warmup_steps": 0}
GIB = 2**30


@pytest.fixture
def data() -> RealLatents:
    return make_data()


def stages(start: FluxLoRA, data: RealLatents, precision: str, share: float) -> list[Stage]:
    start = dataclasses.replace(start, base=BaseReference(start.base.path, precision))
    options = SMALL | {"streamed_share": share}
    judged = AdversarialStageConfig(**options, watch=False)
    return [
        DiffusionStage(start, data, DiffusionStageConfig(**options), device=DEVICE),
        AdversarialStage(start, data, DiscriminatorConfig(width=8), judged, device=DEVICE),
    ]


def told(stage: Stage) -> list[str]:
    """With sizes left out."""
    notes = [note for note in stage.take_notes() if "base is held" in note or "streamed" in note]
    return [re.sub(r"0\.\d\d MiB", "-", note) for note in notes]


def test_each_stage_tells_once_how_its_base_is_held(start: FluxLoRA, data: RealLatents) -> None:
    streamed = "2 of 4 blocks are streamed, - in ordinary memory."
    for precision, share, wanted in (
        ("fp32", 0.0, None),
        ("bf16", 0.0, None),
        ("int8", 0.0, "The base is held in int8 and multiplied by torch._int_mm."),
        ("bf16", 0.5, streamed),
        ("int8", 0.5, f"The base is held in int8 and multiplied by torch._int_mm; {streamed}"),
    ):
        for stage in stages(start, data, precision, share):
            assert told(stage) == ([wanted] if wanted else []), (precision, share, stage.name)
            assert not told(stage), "once"


def test_the_kernel_that_is_told_is_the_one_that_multiplies(start: FluxLoRA, data: RealLatents) -> None:
    assert held._KERNELS.keys() == int8_kernels.KERNELS.keys()
    (stage, _) = stages(start, data, "int8", 0.0)
    for module in stage.base.transformer.modules():
        if isinstance(module, FrozenLinear):
            module.kernel = "none"
    assert "dequantised weights, since no 8-bit kernel works" in held.how_held(stage.base, None)


def test_memory_that_the_system_does_not_let_be_pinned_is_told_with_what_to_do() -> None:
    """What a card is asked for here are its name and two counts; the locks themselves are the ring's."""
    cuda = torch.device("cuda")
    assert held._lie(cuda, 12 * GIB, 12 * GIB) == "12.0 GiB in pinned memory"
    short = held._lie(cuda, 12 * GIB, 3 * GIB)
    assert "12.0 GiB in ordinary memory" in short and "only 3.0 GiB be pinned" in short
    assert "lower streamed_share" in short
    assert held._lie(torch.device("cpu"), GIB, 0) == "1.0 GiB in ordinary memory"
