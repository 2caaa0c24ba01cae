"""What makes two runs the same run: every input and every option that shapes the result, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    Config,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.lora.adapter import FluxLoRA, create
from fluxduel.training.runs import fingerprints
from fluxduel.training.runs.fingerprints import Fingerprint, fingerprint

CONFIGS = {"diffusion": DiffusionStageConfig(), "adversarial": AdversarialStageConfig()}
JUDGE = DiscriminatorConfig()
PRACTISING = dataclasses.replace(make_data(), practice_fingerprint="practice", outside_fingerprint="outside")
# Options that are not compared one by one, and what stands for them.
NOT_BY_NAME = {"steps", "batch_size", "gradient_accumulation"}


@pytest.fixture(scope="module")
def start() -> FluxLoRA:
    return create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=2))


def of(start: FluxLoRA, stage: str = "adversarial", **changes: Any) -> Fingerprint:
    """A run's fingerprint, with other inputs where ``changes`` says so."""
    given = {"lora": start, "data": PRACTISING, "config": CONFIGS[stage]} | changes
    if stage == "adversarial":
        given = {"discriminator": JUDGE, "discriminator_weights": None} | given
    return fingerprint(stage, **given)


def another(config: Config, field: dataclasses.Field) -> Config:
    """The same configuration but for one option."""
    value = getattr(config, field.name)
    if field.metadata["choices"]:
        other = next(choice for choice in field.metadata["choices"] if choice != value)
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = "d0"
    else:
        low, high = field.metadata["low"], field.metadata["high"]
        other = type(value)((value + (high if value == low else low)) / 2)
    return dataclasses.replace(config, **{field.name: other})


@pytest.mark.parametrize("stage", ["diffusion", "adversarial"])
def test_every_shaping_option_of_a_stage_tells_runs_apart_and_is_named(start, stage: str) -> None:
    plain = of(start, stage)
    for field in dataclasses.fields(CONFIGS[stage]):
        changed = of(start, stage, config=another(CONFIGS[stage], field))
        words = changed.differences(plain.parts)
        if field.name in NOT_BY_NAME:
            continue
        if field.metadata["shapes_result"]:
            assert len(words) == 1 and words[0].startswith(f"{field.name} (was "), field.name
        else:
            assert words == [], field.name


def test_every_shaping_option_of_the_judge_tells_runs_apart_and_is_named(start) -> None:
    plain = of(start)
    for field in dataclasses.fields(JUDGE):
        words = of(start, discriminator=another(JUDGE, field)).differences(plain.parts)
        assert len(words) == 1 and words[0].startswith(f"discriminator.{field.name} (was "), field.name


def test_every_input_tells_runs_apart_and_is_named(start, tmp_path: Path) -> None:
    moved = {name: tensor + 1e-6 for name, tensor in start.tensors.items()}
    renamed = {name.replace("attn", "other"): tensor for name, tensor in start.tensors.items()}
    weights = {"a": torch.ones(2)}
    others = {
        "the base's precision": {"lora": dataclasses.replace(start, base=BaseReference(TINY_BASE, "bf16"))},
        "the LoRA it starts from": {"lora": dataclasses.replace(start, tensors=moved)},
        "alpha (was 16.0, now 8.0)": {
            "lora": dataclasses.replace(start, config=dataclasses.replace(start.config, alpha=8.0))
        },
        "the practice prompts": {"data": dataclasses.replace(PRACTISING, practice_fingerprint="another")},
        "the outside prompts": {"data": dataclasses.replace(PRACTISING, outside_fingerprint="another")},
        "the training data": {"data": dataclasses.replace(PRACTISING, fingerprint="another")},
        "the discriminator it goes on with": {"discriminator_weights": weights},
        "images_per_update (was 1, now 3)": {"ranks": 3},
    }
    for words, changes in others.items():
        assert of(start, **changes).differences(of(start).parts) == [words]
    told = [of(start, lora=dataclasses.replace(start, tensors=renamed)).differences(of(start).parts)]
    told.append(of(start, discriminator_weights={"b": torch.ones(2)}).differences(
        of(start, discriminator_weights=weights).parts
    ))  # fmt: skip
    assert told == [["the LoRA it starts from"], ["the discriminator it goes on with"]]


@pytest.mark.parametrize("kind", ["practice", "outside"])
def test_prompts_without_pictures_leave_stage_1_as_it_is(start, kind: str) -> None:
    """So that a change of them trains stage 2 alone; without a share they decide nothing there, nor a share alone."""
    others = dataclasses.replace(make_data(), **{f"{kind}_fingerprint": "another"})
    assert of(start, "diffusion", data=others) == of(start, "diffusion", data=make_data())
    without = of(start, data=make_data())
    assert not {kind, f"{kind}_share", f"{kind}_weight"} & set(without.parts)
    idle = dataclasses.replace(CONFIGS["adversarial"], **{f"{kind}_share": 0.0})
    assert of(start, data=others, config=idle) == without == of(start, data=make_data(), config=idle)


@pytest.mark.parametrize("stage", ["diffusion", "adversarial"])
def test_another_method_is_another_run(start, stage: str, monkeypatch) -> None:
    plain = of(start, stage)
    monkeypatch.setitem(fingerprints.METHOD, stage, fingerprints.METHOD[stage] + 1)
    assert of(start, stage).differences(plain.parts) == ["this version's method"]


def test_another_base_is_another_run(start, monkeypatch) -> None:
    plain = of(start)
    with monkeypatch.context() as patched:
        patched.setattr(BaseReference, "fingerprint", lambda _: "0123456789abcdef")
        assert of(start).differences(plain.parts) == ["the base"]


def test_a_run_may_go_on_with_another_cut_of_the_same_batch(start) -> None:
    """On more ranks, in more parts, and for more steps; not with more pictures."""
    cuts = [
        of(start, config=dataclasses.replace(CONFIGS["adversarial"], batch_size=b, gradient_accumulation=g), ranks=r)
        for b, g, r in ((4, 1, 1), (1, 4, 1), (1, 2, 2))
    ]
    assert cuts[0].parts == cuts[1].parts == cuts[2].parts
    longer = of(start, config=dataclasses.replace(CONFIGS["adversarial"], steps=301))
    assert longer.differences(of(start).parts) == [] and longer.steps == 301
    assert (longer.total, of(start, "diffusion").total) == (301 + 50, 1000)


def test_what_an_earlier_version_knew_differs_by_name(start) -> None:
    parts = dict(of(start).parts)
    assert of(start).differences({**parts, "gone": 1}) == ["gone (was 1, now None)"]
    del parts["seed"]
    assert of(start).differences(parts) == ["seed (was None, now 0)"]


def test_the_negative_prompt_tells_runs_apart_where_the_watch_is_led_by_it(start) -> None:
    data = dataclasses.replace(PRACTISING, negative_fingerprint="other")

    def words(**changes: Any) -> list[str]:
        config = dataclasses.replace(CONFIGS["adversarial"], **changes)
        return of(start, config=config, data=data).differences(of(start, config=config).parts)

    assert words(watch_cfg=4.0) == ["the negative prompt"]
    assert words() == words(watch_cfg=4.0, watch=False) == []
    assert of(start, "diffusion", data=data).differences(of(start, "diffusion").parts) == []
    # A run of a version without the option goes on.
    assert "watch_cfg" not in of(start).parts
