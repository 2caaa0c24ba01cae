"""A LoRA that is examined on the sibling of its base: previews and watch sample there, and the training stays here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.tests.engine.small import SMALL_FLUX_1
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.base.sampler import sample
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.lora import adapter
from fluxduel.training.lora.value import LoRAError
from fluxduel.training.runs.fingerprints import fingerprint
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.examined import least_beside
from fluxduel.training.stages.plan import Counting, Plan, demand_of

SMALL: dict[str, Any] = {
    "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "gradient_checkpointing": False, "preview_every": 2,
}  # fmt: skip
STAGE_1 = DiffusionStageConfig(**SMALL, preview_steps=2, validate_every=0)
STAGE_2 = AdversarialStageConfig(
    **SMALL, target_steps=2, discriminator_warmup=1, validate_every=2, watch_pictures=4,
)  # fmt: skip
JUDGE = DiscriminatorConfig(architecture="cnn", width=8, depth=1)


@pytest.fixture(scope="module")
def sibling(random_transformer: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    folder = tmp_path_factory.mktemp("distilled")
    transformer = FluxTransformer2DModel.from_pretrained(random_transformer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    transformer.save_pretrained(folder)
    return BaseReference(str(folder), "fp32")


def test_previews_show_the_trained_weights_on_the_sibling(start, data, sibling) -> None:
    plain, there = Recorder(), Recorder()
    own = train_diffusion_stage(start, data, STAGE_1, device="cpu", reporter=plain)
    moved = train_diffusion_stage(start, data, STAGE_1, device="cpu", reporter=there, sampling_base=sibling)
    assert all(torch.equal(tensor, moved.lora.tensors[name]) for name, tensor in own.lora.tensors.items())
    assert moved.lora.base == start.base
    assert not torch.allclose(plain.previews[-1], there.previews[-1])
    base = load_base(sibling, "cpu")
    adapter.attach(base, dataclasses.replace(moved.lora, base=sibling))
    prompt = data.prompts[data.samples[data.held_out[0]].prompt]
    height, width = data.samples[data.held_out[0]].shape[-2:]
    expected = sample(
        base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=height, width=width, steps=2, seeds=[0],
        guidance=3.5,
    )  # fmt: skip
    torch.testing.assert_close(there.previews[-1][:1], expected, rtol=1e-5, atol=1e-5)


def test_the_watch_measures_on_the_sibling(start, sibling) -> None:
    data = make_data(count=10, held_out=4, side=8)

    def first(**changes: Any) -> dict[str, float]:
        recorder = Recorder()
        config = dataclasses.replace(STAGE_2, preview_every=0)
        train_adversarial_stage(start, data, JUDGE, config, device="cpu", reporter=recorder, **changes)
        return next(record for record in recorder.records if "diversity" in record)

    own, moved = first(), first(sampling_base=sibling)
    assert own["diversity"] != moved["diversity"]
    # What is measured on the base that is trained stays there.
    assert own["held_out_loss"] == moved["held_out_loss"]


def test_a_base_of_other_shapes_is_refused_before_anything_is_loaded(start, data, tmp_path: Path) -> None:
    deeper = BaseReference(str(SMALL_FLUX_1.save(tmp_path / "deeper", singles=3)), "fp32")
    with pytest.raises(LoRAError, match="sampling_base: deeper has other shapes .* num_single_layers is 3 and not 2"):
        train_diffusion_stage(start, data, STAGE_1, device="cpu", reporter=Recorder(), sampling_base=deeper)


def test_runs_are_told_apart_by_it_where_the_watch_decides(start, data, sibling) -> None:
    def words(stage: str, config: Any, *judge: DiscriminatorConfig) -> list[str]:
        plain = fingerprint(stage, start, data, config, *judge)
        return fingerprint(stage, start, data, config, *judge, sampling_base=sibling).differences(plain.parts)

    assert words("adversarial", STAGE_2, JUDGE) == ["the base that the watch samples with"]
    assert words("adversarial", dataclasses.replace(STAGE_2, watch=False), JUDGE) == []
    assert words("diffusion", STAGE_1) == []


def test_room_is_left_for_it_beside_the_weights(start, data, sibling) -> None:
    beside = least_beside(start, sibling, data, STAGE_1)
    assert beside > 0 and least_beside(start, None, data, STAGE_1) == 0
    plan, demand = Plan("fp32", "none"), demand_of(start, data, STAGE_1, None)
    alone = Counting(start, demand)
    assert Counting(start, demand, beside).peak(plan) == max(alone.peak(plan), alone.least(plan) + beside)
    assert Counting(start, demand, 10**12).peak(plan) == alone.least(plan) + 10**12
    assert not Counting(start, demand, 10**12).fits(plan, 10**12)
