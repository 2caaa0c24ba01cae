"""LoRAs measured with classifier-free guidance, and on the sibling of their base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.tests.engine.small import SMALL_FLUX_1
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.families.flux1 import Flux1
from fluxduel.training.config import LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.evaluation import SAMPLED_ON, evaluate
from fluxduel.training.lora.adapter import create
from fluxduel.training.lora.value import LoRAError

SETTINGS = dict(step_counts=(2,), count=4, seed=40, guidance=2.0, device=DEVICE, keep=4)


@pytest.fixture(scope="module")
def real() -> RealLatents:
    return make_data(count=8, held_out=4, side=8)


@pytest.fixture(scope="module")
def sibling(random_transformer: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """Of the same shapes and without a guidance embedding, as schnell is to dev; other weights."""
    folder = tmp_path_factory.mktemp("distilled")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformer = FluxTransformer2DModel.from_config(
            FluxTransformer2DModel.load_config(random_transformer) | {"guidance_embeds": False}
        )
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    transformer.save_pretrained(folder)
    return BaseReference(str(folder), "fp32")


def test_pictures_are_led_from_the_datas_negative_prompt(start, real) -> None:
    other = dataclasses.replace(real, negative_prompt=real.prompts[0])

    def found(data: RealLatents, cfg: float) -> torch.Tensor:
        return evaluate([("mine", start)], data, **SETTINGS, cfg=cfg).results[0].latents

    plain, empty, away = found(real, 1.0), found(real, 3.0), found(other, 3.0)
    assert torch.equal(plain, found(other, 1.0)) and torch.equal(plain, found(real, 0.0))
    assert not torch.allclose(plain, empty) and not torch.allclose(empty, away)


def test_the_report_says_who_was_sampled_at_which_cfg(start, real, monkeypatch) -> None:
    stage_2 = {"stage": "adversarial", "config": {"target_steps": 2, "target": "target_steps", "few_step_guidance": 0}}
    named = [("one", start), ("two", dataclasses.replace(start, provenance=(stage_2,)))]
    assert "cfg" not in evaluate(named, real, **SETTINGS).report()
    assert " Sampled at cfg 3." in evaluate(named, real, **SETTINGS, cfg=3.0).report()
    monkeypatch.setattr(Flux1, "usual_cfg", lambda self, variant: 4.0)
    found = evaluate(named, real, **SETTINGS)
    assert [result.cfg for result in found.results] == [4.0, 1.0]
    assert " Sampled at cfg 4: one at 2 steps; cfg 1: two at 2 steps." in found.report()
    assert [each["cfg"] for each in found.as_json()["results"]] == [4.0, 1.0]


def test_on_a_sibling_the_pictures_are_its_own_and_the_loss_is_the_bases(start, real, sibling) -> None:
    loaded = []

    def load(reference: BaseReference, *args: object, **options: object) -> FluxBase:
        loaded.append(reference.path)
        return load_base(reference, *args, **options)

    there = dataclasses.replace(start, base=sibling)
    bare = create(start.base, LoRAConfig(rank=1))
    given = [("bare", bare), ("mine", start)]
    found = evaluate(given, real, **SETTINGS, sampling_base=sibling, load=load, neighbours="on")
    assert loaded == [start.base.path, sibling.path]
    at_home, moved = (evaluate([("mine", each)], real, **SETTINGS).results[0] for each in (start, there))
    mine = found.results[1]
    assert torch.equal(mine.latents, moved.latents) and mine.measurement == moved.measurement
    assert not torch.allclose(mine.latents, at_home.latents)
    assert mine.held_out_loss == at_home.held_out_loss != moved.held_out_loss
    assert [each.held_out_loss is None for each in found.neighbours if "strength" in each.variation] == [True, True]
    assert SAMPLED_ON.format(sibling.name) in found.notes


def test_a_base_of_other_shapes_is_no_sibling(start, real, tmp_path: Path) -> None:
    deeper = BaseReference(str(SMALL_FLUX_1.save(tmp_path / "deeper", doubles=3)), "fp32")
    with pytest.raises(LoRAError, match="mine: deeper has other shapes than .*: its num_layers is 3 and not 2"):
        evaluate([("mine", start)], real, **SETTINGS, sampling_base=deeper)
