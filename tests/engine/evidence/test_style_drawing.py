"""The benchmark's drawing is the engine's sampling, LoRA merged and in bf16; its datasets are what their names say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from fluxduel.benchmarks import pictograms
from fluxduel.benchmarks.quality.rivals import DistilStage
from fluxduel.benchmarks.quality.styles import arms, drawing, subjects
from fluxduel.benchmarks.quality.styles.drawing import Setting
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.base.sampler import sample
from fluxduel.training.config import TINY_BASE, LoRAConfig
from fluxduel.training.lora import adapter
from fluxduel.training.lora.value import at_strength

BASE = BaseReference(TINY_BASE, "fp32")
UNKNOWN = [f"unknown-{number}" for number in range(60)]
CAPTIONS = ["flat red apple", "3d cat"]


@pytest.fixture(scope="module")
def lora() -> adapter.FluxLoRA:
    """Changes every layer by about as much as a trained one does."""
    start = adapter.create(BASE, LoRAConfig(rank=4, alpha=8.0, targets="all"))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.1 * torch.randn(tensor.shape, generator=generator) if ".lora_B." in name else tensor
        for name, tensor in start.tensors.items()
    }
    return dataclasses.replace(start, tensors=tensors)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder as ``benchmarks.pictograms`` writes it, each picture in a colour of its own."""
    for number, name in enumerate([*subjects.taught(), *UNKNOWN]):
        for style in (*pictograms.BASE_STYLES, *pictograms.TARGET_STYLES):
            path = tmp_path / style.word / f"{name}.webp"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (pictograms.SIDE,) * 2, (number % 256, 255 - number % 256, 128)).save(path, lossless=True)
    monkeypatch.setattr(subjects, "FOLDER", tmp_path)
    subjects._picture.cache_clear()
    subjects._latents.cache_clear()
    yield tmp_path
    subjects._picture.cache_clear()
    subjects._latents.cache_clear()


@pytest.mark.parametrize("setting", [Setting("euler", 4, 3.5), Setting("dpmpp_2m", 3, 1.0, 0.5)])
def test_samples_are_the_engines(lora, setting):
    """From the same noise; bf16 and the order of sums move them a little. The base is left as it was."""
    own = drawing.latents(None, CAPTIONS, setting)
    drawn = drawing.latents(lora, CAPTIONS, setting)
    base = load_base(BASE, "cpu")
    adapter.attach(base, dataclasses.replace(lora, tensors=at_strength(lora.tensors, setting.strength)))
    for number, caption in enumerate(CAPTIONS):
        prompt = subjects.prompt(caption)
        expected = sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=16, width=16, steps=setting.steps,
            seeds=[10_000 + number], guidance=setting.guidance, solver=setting.solver,
        )[0]  # fmt: skip
        moved = (own[number] - expected).norm() / expected.norm()
        error = (drawn[number] - expected).norm() / expected.norm()
        assert error < 0.08 and moved > 5 * error
    assert torch.equal(drawing.latents(None, CAPTIONS, setting), own)
    assert drawing.decoded(own).shape == (2, 3, 128, 128)


def test_training_pictures_are_never_measured_on(pictures):
    few, unseen = subjects.split("3d", 24, 7)
    many, same = subjects.split("3d", 60, 7)
    assert many[:24] == few and unseen == same and len(unseen) >= 150
    assert not set(many) & set(unseen) and set(many) | set(unseen) == set(subjects.taught())
    assert subjects.split("3d", 24, 8)[0] != few and subjects.split("outline", 24, 7)[0] != few
    data = subjects.dataset("3d", 24, 7, 0.125)
    assert data.held_out == (21, 22, 23) and [s.name for s in data.samples] == few
    assert data.prompts[5].caption == f"3d {few[5].replace('-', ' ')}"
    # Each with its own picture, in the space that the transformer works in: what is drawn from it is the picture.
    shown = drawing.decoded(torch.stack([sample.mean for sample in data.samples]))
    truth = subjects.pictures("3d", few)
    assert (shown - truth).abs().mean() < 0.02
    torch.testing.assert_close(shown, drawing.through_vae(truth), rtol=0, atol=0.05)


def test_nothing_practised_on_is_trained_or_measured_on(pictures):
    for images in (24, 60):
        training, unseen = subjects.split("3d", images, 7)
        names = subjects.practice("3d", images, 7)
        assert len(set(names)) == subjects.PRACTICE and not set(names) & {*training, *unseen}
        assert set(names) <= set(subjects.taught() if images == 24 else UNKNOWN)
        assert subjects.practice("3d", images, 7) == names != subjects.practice("3d", images, 8)
        data = subjects.dataset("3d", images, 7, 0.125)
        practising = subjects.practising(data, "3d", images, 7)
        assert [prompt.caption for prompt in practising.practice_prompts] == [
            f"3d {pictograms.words(name)}" for name in names
        ]
        assert practising.samples == data.samples and practising.practice_fingerprint != data.practice_fingerprint


def test_a_distilled_step_is_regressed_on_the_starts_sub_steps(pictures, lora):
    """By hand: from each level in six Euler steps with the frozen start, and the velocity that leads there at once."""
    data = subjects.dataset("3d", 24, 7, 0.125)
    arm = arms.ARMS["distil"]
    config = dataclasses.replace(arm.stage_config(0), batch_size=4)
    stage = DistilStage(lora, data, arm.judge_config(0), config, device="cpu")
    (batch,) = stage.micro_batches(3)
    with torch.no_grad():
        # Away from the start, so that teacher and student differ.
        for parameter in adapter.parameters(stage.base):
            parameter.mul_(1.1)
    prediction = stage.predict(batch, 3)
    loss = stage.loss(batch, prediction, 3, 0)

    teacher = load_base(BASE, "cpu")
    adapter.attach(teacher, lora)
    errors = []
    for i in range(4):
        sigma, end = prediction.levels.sigma[i].item(), prediction.levels.end[i].item()
        x = prediction.x_t[i : i + 1].detach()
        with torch.no_grad():
            for k in range(6):
                here = sigma + (end - sigma) * k / 6
                velocity = teacher.velocity(
                    x, torch.tensor([here]), batch.prompt_embeds[i : i + 1], batch.pooled_prompt_embeds[i : i + 1],
                    arms.GUIDANCE,
                )  # fmt: skip
                x = x + (end - sigma) / 6 * velocity
        target = (prediction.x_t[i : i + 1] - x) / (sigma - end)
        errors.append((prediction.velocity[i : i + 1] - target).square().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)
