"""A stage that delivers the LoRA it started from says so; one that has moved it does not."""

from __future__ import annotations

import torch

from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.config import DiffusionStageConfig
from fluxduel.training.evidence.training_log import TrainingLog
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.sampling_advice import UNCHANGED
from fluxduel.training.stages.diffusion_stage import DiffusionStage


def test_provenance_says_whether_the_stage_has_moved_the_lora(start) -> None:
    config = DiffusionStageConfig(steps=1, ema_decay=0.0, gradient_checkpointing=False)
    stage = DiffusionStage(start, make_data(), config, device="cpu")

    def said() -> dict:
        return stage.result(TrainingLog("diffusion", ()), False).lora.provenance[-1]

    assert UNCHANGED.items() <= said().items()
    with torch.no_grad():
        lora.parameters(stage.base)[-1].view(-1)[-1] += 1e-3
    assert not UNCHANGED.items() <= said().items()
