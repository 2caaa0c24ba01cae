"""What is measured within a run is what would be delivered, at the guidance that is trained with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.training.base import sampler
from fluxduel.training.base.base_model import FluxBase, load_base
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence import metrics
from fluxduel.training.evidence.metrics import held_out_flow_loss
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.health import Examiner
from fluxduel.training.stages.monitor import Health

GUIDANCE = 4.0
OPTIONS: dict[str, Any] = {
    "steps": 2, "batch_size": 2, "learning_rate": 0.05, "ema_decay": 0.9, "guidance": GUIDANCE, "validate_every": 2,
    "preview_every": 2, "preview_steps": 2, "gradient_checkpointing": False,
}  # fmt: skip
JUDGE = DiscriminatorConfig(architecture="cnn", width=8, depth=1)


def made(start, data, kind: str) -> DiffusionStage | AdversarialStage:
    if kind == "diffusion":
        return DiffusionStage(start, data, DiffusionStageConfig(**OPTIONS), device=DEVICE)
    config = AdversarialStageConfig(**OPTIONS, target_steps=2, discriminator_warmup=0, watch=False)
    return AdversarialStage(start, data, JUDGE, config, device=DEVICE)


def on_base(delivered: FluxLoRA) -> FluxBase:
    base = load_base(delivered.base, DEVICE)
    lora.attach(base, delivered)
    return base


@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_the_held_out_loss_is_that_of_what_is_delivered(start, data, kind: str) -> None:
    stage = made(start, data, kind)
    result = run(stage, Recorder())
    raw = dataclasses.replace(result.lora, tensors=lora.snapshot(stage.base))
    measured = result.log.records[-1]["held_out_loss"]
    assert measured == pytest.approx(held_out_flow_loss(on_base(result.lora), data, GUIDANCE, batch_size=2), rel=1e-5)
    for other, guidance in ((raw, GUIDANCE), (result.lora, 1.0)):
        assert measured != pytest.approx(held_out_flow_loss(on_base(other), data, guidance, batch_size=2), rel=1e-3)
    at_start = held_out_flow_loss(on_base(start), data, GUIDANCE, batch_size=2)
    assert result.log.records[0]["held_out_loss"] == pytest.approx(at_start, rel=1e-5)


@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_the_preview_is_of_what_is_delivered(start, data, kind: str) -> None:
    stage, recorder = made(start, data, kind), Recorder()
    result = run(stage, recorder)
    raw = dataclasses.replace(result.lora, tensors=lora.snapshot(stage.base))
    prompts = [data.prompts[data.samples[index].prompt] for index in data.held_out]

    def sampled(of: FluxLoRA, guidance: float) -> torch.Tensor:
        base = on_base(of)
        latents = [
            sampler.sample(
                base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=4, width=4, steps=2, seeds=[0],
                guidance=guidance,
            )
            for prompt in prompts
        ]  # fmt: skip
        return torch.cat(latents).cpu()

    at_start, preview = recorder.previews
    torch.testing.assert_close(at_start, sampled(start, GUIDANCE), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(preview, sampled(result.lora, GUIDANCE), rtol=1e-4, atol=1e-4)
    for other, guidance in ((raw, GUIDANCE), (result.lora, 1.0)):
        assert not torch.allclose(preview, sampled(other, guidance), rtol=1e-2, atol=1e-2)


def watched(start, data, **changes: Any) -> AdversarialStage:
    config = AdversarialStageConfig(**OPTIONS | {"preview_every": 0} | changes, discriminator_warmup=0)
    return AdversarialStage(start, data, JUDGE, config, device=DEVICE)


@pytest.mark.parametrize(("held_out", "training"), [(1.5, 1.2), (1.2, 1.5), (0.5, 1.0), (1.0, 0.5)])
def test_the_drift_of_the_flow_is_the_smaller_of_two(
    start, data, monkeypatch, held_out: float, training: float
) -> None:
    """That on held-out pictures, or on as many training pictures, each as a ratio to the start's."""
    losses = {True: iter([2.0, 2.0 * held_out]), False: iter([3.0, 3.0 * training])}
    drifts: list[float] = []

    def measured(base: FluxBase, of: RealLatents, guidance: float, **_: Any) -> float:
        of_held_out = of.held_out == data.held_out
        assert guidance == GUIDANCE and len(of.held_out) == len(data.held_out)
        assert of_held_out or set(of.held_out) <= set(data.training)
        # Called where the weights are those that would be delivered.
        assert all(torch.equal(tensor, expected[name]) for name, tensor in lora.snapshot(base).items())
        return next(losses[of_held_out])

    def examine(_: Examiner, base: FluxBase, held_out_loss: float, after_step: Any) -> Health:
        drifts.append(held_out_loss)
        return Health(held_out_loss=held_out_loss, diversity=1.0, high_frequency=1.0, score=1.0)

    monkeypatch.setattr(metrics, "held_out_flow_loss", measured)
    monkeypatch.setattr(Examiner, "examine", examine)
    stage = watched(start, data)
    expected = stage.delivered()
    stage.validate(lambda: None)
    stage.step(0)
    expected = stage.delivered()
    stage.validate(lambda: None)
    assert drifts == [2.0, pytest.approx(2.0 * min(held_out, training))]


def test_overfitting_is_the_share_of_the_way_from_training_pictures_to_fakes(start) -> None:
    """By the means that are logged with it, in their order."""
    data = make_data(count=12, held_out=4)
    stage = watched(start, data, steps=9, learning_rate=1e-4)
    values = stage.step(0)
    train, held_out, fake = (values[name] for name in ("real_logits", "held_out_logits", "fake_logits"))
    assert len({train, held_out, fake}) == 3
    expected = (train - held_out) / (train - fake) if train > fake else 0.0
    assert stage.monitor.balance.scalars()["discriminator_overfit"] == pytest.approx(expected, rel=1e-4)
    told = []
    original = stage.monitor.balance.check_overfit
    stage.monitor.balance.check_overfit = lambda *given: (told.append(given), original(*given))[1]
    seen = [stage.step(step) for step in range(1, 9)]
    (record,) = [r for r in seen if "held_out_logits" in r]
    ((train, held_out, fake, at_limit),) = told
    assert (train, held_out, fake) == tuple(record[name] for name in ("real_logits", "held_out_logits", "fake_logits"))
    assert not at_limit
