"""What a short run leaves in its folder and tells its reporter, and what another sitting of it does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder
from fluxduel.training.base import sampler
from fluxduel.training.base.base_model import FluxBase, load_base
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.lora import adapter
from fluxduel.training.runs.run_directory import RunDirectory, fingerprint
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages.adversarial_stage import AdversarialStage

SHORT = DiffusionStageConfig(
    steps=3, batch_size=2, learning_rate=1e-2, gradient_checkpointing=False, validate_every=0, checkpoint_every=1,
)  # fmt: skip


class Told(Recorder):
    """Also counts the calls of ``resumed``."""

    calls = 0

    def resumed(self, *given: Any) -> None:
        self.calls += 1
        super().resumed(*given)


def train(start, data, folder: Path, recorder: Recorder, **changes: Any):
    config = dataclasses.replace(SHORT, **changes)
    return train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=folder)


def test_only_a_run_that_goes_on_is_told_as_one(start, data, tmp_path: Path) -> None:
    first = Told(stop_before=2)
    assert train(start, data, tmp_path, first).goes_on_from == 1
    assert first.calls == 0 and [record["step"] for record in first.records] == [1]
    second = Told()
    train(start, data, tmp_path, second)
    assert second.calls == 1 and [record["step"] for record in second.earlier] == [1]
    assert [record["step"] for record in second.records] == [2, 3]


def test_the_judge_lies_beside_the_lora_as_it_was_at_the_end(start, data, tmp_path: Path) -> None:
    config = AdversarialStageConfig(
        steps=2, batch_size=2, gradient_checkpointing=False, validate_every=0, watch=False, discriminator_warmup=1
    )
    judge = DiscriminatorConfig(architecture="cnn", width=8, depth=1)
    stage = AdversarialStage(start, data, judge, config, device=DEVICE)
    with RunDirectory.opened(tmp_path, fingerprint("adversarial", start, data, config, judge), {}) as directory:
        run(stage, Recorder(), directory)
    kept = load_file(tmp_path / "discriminator.safetensors")
    expected = stage.state()[0]["discriminator"]
    assert kept.keys() == expected.keys() and all(torch.equal(kept[name], expected[name]) for name in kept)


@pytest.mark.parametrize(("held_out", "solver"), [((6, 7), "heun"), ((), "euler")])
def test_a_preview_is_for_the_first_held_out_captions(
    start, data, tmp_path: Path, held_out: tuple[int, ...], solver: str
) -> None:
    """Or for the first that are trained on, where none is held out."""
    data = dataclasses.replace(data, held_out=held_out)
    recorder = Recorder()
    shown = {"preview_every": 3, "preview_steps": 2, "preview_sampler": solver}
    result = train(start, data, tmp_path, recorder, ema_decay=0.0, **shown)
    base = load_base(start.base, DEVICE)
    adapter.attach(base, result.lora)
    assert [len(latents) for latents in recorder.previews] == [2, 2]
    for place, latents in enumerate(recorder.previews[1]):
        prompt = data.prompts[data.samples[(6 if held_out else 0) + place].prompt]
        # What a LoRA that was trained at guidance 1 is sampled at.
        expected = sampler.sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=4, width=4, steps=2, seeds=[0],
            guidance=3.5, solver=solver,
        )  # fmt: skip
        torch.testing.assert_close(latents[None], expected.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("polls", "step"), [(4, 0), (2 * 6 + 1 + 4, 1)])
def test_a_preview_can_be_stopped_in_its_midst(start, data, tmp_path: Path, polls: int, step: int) -> None:
    """Asked before each step and after each evaluation of the model, of which two pictures take six each."""
    recorder = Recorder(stop_before=polls)
    result = train(start, data, tmp_path, recorder, preview_every=1, preview_steps=6)
    assert result.stopped and result.goes_on_from == step and [at for at, _ in recorder.shown] == [*range(step)]


def test_a_preview_takes_no_more_pictures_at_once_than_training_does(start, data, tmp_path: Path, monkeypatch) -> None:
    sizes: list[int] = []
    original = FluxBase.velocity

    def spy(self: FluxBase, x_t: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        sizes.append(len(x_t))
        return original(self, x_t, *rest, **named)

    monkeypatch.setattr(FluxBase, "velocity", spy)
    recorder = Recorder()
    train(start, data, tmp_path, recorder, preview_every=3, preview_steps=1, batch_size=1)
    assert len(recorder.previews[0]) > 1 and set(sizes) == {1}
