"""Which classifier-free guidance a LoRA is sampled at, and in which words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.base.families.flux3 import FLUX3
from fluxduel.training.config import TINY_BASE, AdversarialStageConfig, LoRAConfig
from fluxduel.training.lora.sampling_advice import STAGE_1_ADVICE, advice_of, departures
from fluxduel.training.lora.usual_cfg import AS_USUAL, advice_for, cfg_at, guided
from fluxduel.training.lora.value import FluxLoRA

CONFIG = {
    "_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24, "guidance_embeds": False,
}  # fmt: skip
STAGE_1 = {"stage": "diffusion", "config": {}}


def stage_2(**changes: object) -> dict[str, object]:
    return {"stage": "adversarial", "config": dataclasses.asdict(AdversarialStageConfig(**changes))}


def klein(folder: Path, *provenance: dict, **changes: object) -> FluxLoRA:
    """A LoRA of a FLUX.2 whose folder has this name: its configuration alone is looked at."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "diffusion_pytorch_model.safetensors").touch()
    return FluxLoRA(BaseReference(str(folder)), LoRAConfig(rank=2), {}, provenance)


def test_variants_have_the_cfg_of_their_makers() -> None:
    told = {name: FLUX2.usual_cfg(FLUX2.variant(CONFIG, name)) for name in ("flux-2-klein-base-4b", "flux-2-klein-4b")}
    assert told == {"flux-2-klein-base-4b": 4.0, "flux-2-klein-4b": 1.0}
    assert FLUX2.usual_cfg(FLUX2.variant(CONFIG | {"guidance_embeds": True}, "flux2-dev-base")) == 1.0
    assert FLUX3.usual_cfg(FLUX3.variant({}, "")) == 4.0


def test_distilled_variants_have_the_steps_of_their_makers() -> None:
    told = {name: FLUX2.usual_steps(FLUX2.variant(CONFIG, name)) for name in ("klein-base-4b", "klein-4b")}
    assert told == {"klein-base-4b": 0, "klein-4b": 4}
    assert FLUX2.usual_steps("dev") == FLUX3.usual_steps("klein base") == 0
    assert [FLUX1.usual_steps(FLUX1.variant({"guidance_embeds": dev}, "")) for dev in (True, False)] == [0, 4]


@pytest.mark.parametrize(
    ("provenance", "at_4", "at_20"),
    [
        ([], 4.0, 4.0),
        ([STAGE_1], 4.0, 4.0),
        ([STAGE_1, stage_2()], 1.0, 4.0),
        ([STAGE_1, stage_2(target_steps=20)], 4.0, 4.0),
        ([STAGE_1, stage_2(target_steps=20, target="two_samplers")], 1.0, 4.0),
        ([stage_2(), STAGE_1], 4.0, 4.0),
    ],
)
def test_the_few_steps_of_stage_2_are_not_guided(tmp_path: Path, provenance: list, at_4: float, at_20: float) -> None:
    lora = klein(tmp_path / "klein-base", *provenance)
    assert [cfg_at(lora, steps, AS_USUAL) for steps in (4, 20)] == [at_4, at_20]
    assert [cfg_at(lora, steps, 2.5) for steps in (4, 20)] == [2.5, 2.5]
    assert guided(lora, (4, 20), AS_USUAL) and guided(lora, (4,), AS_USUAL) == (at_4 != 1)
    assert not guided(lora, (4, 20), 1.0)


def test_flux_1_and_distilled_models_are_not_guided(tmp_path: Path) -> None:
    assert cfg_at(FluxLoRA(BaseReference(TINY_BASE), LoRAConfig(), {}), 25, AS_USUAL) == 1.0
    assert cfg_at(klein(tmp_path / "flux-2-klein-4b"), 25, AS_USUAL) == 1.0


def test_advice_names_the_cfg_of_a_base_without_a_guidance_embedding(tmp_path: Path) -> None:
    base, distilled = tmp_path / "klein-base", tmp_path / "klein"
    assert advice_for(klein(base, STAGE_1)) == (
        f"{STAGE_1_ADVICE} Set cfg to 4 or so, as for klein-base alone. On FLUX.2 klein, its distilled sibling: 4 "
        "steps, cfg 1.", "",
    )  # fmt: skip
    assert advice_for(klein(distilled, STAGE_1))[0].endswith(" Set cfg to 1, as for klein alone.")
    judged = klein(base, STAGE_1, stage_2(target_steps=20))
    assert advice_for(judged)[0].endswith(" Set cfg to 4 or so, as for klein-base alone.")
    few = klein(base, STAGE_1, stage_2())
    assert advice_for(few)[0] == (
        advice_of(few.provenance, few.base.config)[0]
        + " With up to 8 steps set cfg to 1, as trained; with more to 4 or so."
    )
    assert "cfg" not in advice_for(klein(tmp_path / "dev", STAGE_1, guidance_embeds=True))[0]
    assert advice_for(klein(base)) == ("", "")
    gone = dataclasses.replace(few, base=BaseReference(str(tmp_path / "gone")))
    assert advice_for(gone) == ("", "")
    for file in base.iterdir():
        file.unlink()
    assert advice_for(few) == advice_of(few.provenance, few.base.config), "the family was told before"


def test_another_cfg_at_the_few_steps_of_stage_2_is_doubted() -> None:
    said = departures([STAGE_1, stage_2()], step_counts=(4, 25), cfg=4.0)
    assert said == ["This LoRA was trained for cfg 1 at few steps; 4 may spoil it."]
    assert departures([STAGE_1, stage_2()], step_counts=(4,), cfg=1.0) == []
    assert departures([STAGE_1, stage_2(target_steps=25)], step_counts=(25,), cfg=4.0) == []
    assert departures([STAGE_1], step_counts=(4,), cfg=4.0) == []
