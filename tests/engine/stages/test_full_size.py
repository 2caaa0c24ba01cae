"""At FLUX.1's size no pass of a stage is larger than its batch: what a measurement needs fits where training does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fluxduel.tests.engine.conftest import Recorder
from fluxduel.tests.full_size import CONTEXT, POOLED, Metered, full_size_reference
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.stages import stage as stage_module
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

SHARED = dict(steps=2, validate_every=2, preview_every=2, preview_steps=1, gradient_accumulation=2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    return full_size_reference(tmp_path_factory.mktemp("full-size"))


@pytest.fixture(scope="module")
def data() -> RealLatents:
    """22 pictures, small ones, 18 of them held out, all with the one caption of a trigger word."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    prompt = Prompt("ohwx", draw(16, CONTEXT), draw(POOLED))
    samples = tuple(LatentSample(f"{i}", draw(16, 8, 8), None, None, None, None, 0) for i in range(22))
    few = dataclasses.replace(prompt, caption="fast, ohwx")
    return RealLatents(samples, (prompt,), prompt, tuple(range(4, 22)), "full-size", (few,), few, "fast")


@pytest.fixture
def start(reference, monkeypatch):
    """A LoRA of FLUX.1, for stages that are given the metered base in place of twelve billion weights."""
    monkeypatch.setattr(stage_module, "load_base", lambda reference, device, home=None: Metered(reference))
    return lora.create(reference, LoRAConfig(rank=1, alpha=1.0))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("target", ["diffusion", "x0", "two_samplers"])
def test_no_pass_is_larger_than_the_batch(start, data, target, batch_size):
    """Whole runs of both stages: training, held-out loss, samples, preview, the look that steers the augmentation."""
    if target == "diffusion":
        config = DiffusionStageConfig(**SHARED, batch_size=batch_size)
        stage = DiffusionStage(start, data, config, device="cpu")
    else:
        config = AdversarialStageConfig(
            **SHARED, batch_size=batch_size, target=target, target_steps=1, watch_pictures=5,
            discriminator_warmup=1,
        )
        stage = AdversarialStage(start, data, DiscriminatorConfig(), config, device="cpu")
    result = run(stage, Recorder())
    largest: dict[str, int] = {}
    for asked_by, samples in stage.base.passes:
        largest[asked_by] = max(samples, largest.get(asked_by, 0))
    print(f"{target}, batch_size {batch_size}: largest pass by who asks for it: {largest}")
    assert result.log.records[-1]["step"] == stage.total
    assert "held_out_loss" in result.log.records[-1]
    if target != "diffusion":
        assert any("held_out_logits" in record for record in result.log.records), "no look at held-out reals"
        assert "score" in result.log.records[-1], "no samples"
    assert max(largest.values()) == batch_size, largest
