"""What pictures are sampled with: the exact base where it fits, half of it where not, and streamed at the last."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fluxduel.tests.engine.conftest import LENGTH, make_data
from fluxduel.tests.engine.small import Small, each_family
from fluxduel.training.base.base_model import BaseReference, empty_base, load_base
from fluxduel.training.base.footprint import Bytes, Counted, weight_bytes
from fluxduel.training.base.sampler import sample
from fluxduel.training.base.streaming import stream
from fluxduel.training.config import AUTO, LoRAConfig
from fluxduel.training.evidence import sampling_base
from fluxduel.training.evidence.sample_lora import sample_lora
from fluxduel.training.evidence.sampling_base import Held, held_for_sampling
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA

SIDE = 8
SIZE = {"height": SIDE, "width": SIDE, "tokens": LENGTH, "batch_size": 2}


@pytest.fixture(scope="module")
def automatic(wide_transformer: Path) -> FluxLoRA:
    return adapter.create(BaseReference(str(wide_transformer), AUTO), LoRAConfig(rank=3))


def needed(lora: FluxLoRA, precision: str, share: float) -> int:
    base = empty_base(dataclasses.replace(lora.base, precision=precision))
    blocks = tuple(weight_bytes(block) for block in base.blocks)
    working = sampling_base._working(lora.base, "bf16", SIDE, SIDE, LENGTH, 2)
    adapted = sum(tensor.nbytes for tensor in lora.tensors.values())
    counted = Counted(blocks, weight_bytes(base.transformer) - sum(blocks), adapted, working)
    return counted.with_streamed(share)


@each_family
def test_the_first_that_fits_is_taken(automatic):
    def held(lora: FluxLoRA, usable: int, **changes: bool) -> Held:
        return held_for_sampling(lora, usable, **SIZE, **changes)

    whole, half = needed(automatic, "bf16", 0), needed(automatic, "int8_convrot", 0)
    least = needed(automatic, "int8_convrot", 1)
    assert least < half < whole
    assert held(automatic, whole) == Held("bf16", 0)
    assert held(automatic, whole - 1) == held(automatic, half) == Held("int8_convrot", 0)
    precision, share = held(automatic, half - 1)
    assert precision == "int8_convrot" and 0 < share < 1
    assert needed(automatic, precision, share) <= half - 1
    assert held(automatic, least) == held(automatic, 0) or held(automatic, 0) == Held("int8_convrot", 1)
    # The computer's own memory has nowhere to stream from.
    assert held(automatic, 0, streams=False) == Held("int8_convrot", 0)
    settled = dataclasses.replace(automatic, base=dataclasses.replace(automatic.base, precision="bf16"))
    precision, share = held(settled, whole - 1)
    assert precision == "bf16" and share > 0


@each_family
def test_what_is_counted_is_what_a_pass_takes(automatic, family: Small):
    """On a base with numbers and the adapter on it: not less, and not much more."""
    base = load_base(dataclasses.replace(automatic.base, precision="bf16"), "cpu")
    adapter.attach(base, automatic)
    prompt = make_data(small=family).prompts[0]
    given = (torch.randn(2, family.channels, SIDE, SIDE), torch.full((2,), 0.5), prompt.prompt_embeds.expand(2, -1, -1),
             prompt.pooled_prompt_embeds.expand(2, -1))  # fmt: skip
    with torch.no_grad(), Bytes(base.transformer) as counted:
        base.velocity(*given, 1.0)
    said = sampling_base._working(automatic.base, "bf16", SIDE, SIDE, LENGTH, 2)
    assert counted.peak <= said <= 2 * counted.peak


@each_family
def test_pictures_are_those_of_the_format_that_was_taken(automatic, family: Small, monkeypatch):
    prompt = make_data(small=family).prompts[0]

    def drawn(precision: str) -> torch.Tensor:
        lora = dataclasses.replace(automatic, base=dataclasses.replace(automatic.base, precision=precision))
        return sample_lora(
            lora, [(prompt.prompt_embeds, prompt.pooled_prompt_embeds)], height=SIDE, width=SIDE, step_counts=[2],
            seeds=[0, 1], guidance=1.0, cfg=1.0, device="cpu", after_step=lambda *_: None,
        )  # fmt: skip

    assert drawn(AUTO).equal(drawn("bf16"))
    monkeypatch.setattr(sampling_base, "free_bytes", lambda device: needed(automatic, "bf16", 0) - 1)
    assert drawn(AUTO).equal(drawn("int8_convrot"))


@each_family
def test_a_streamed_base_draws_the_same(automatic, family: Small):
    prompt = make_data(small=family).prompts[0]

    def drawn(share: float) -> torch.Tensor:
        base = load_base(dataclasses.replace(automatic.base, precision="int8_convrot"), "cpu")
        adapter.attach(base, automatic)
        if share:
            stream(base, "cpu", share)
        return sample(
            base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=SIDE, width=SIDE, steps=2, seeds=[0, 1],
            guidance=1.0,
        )  # fmt: skip

    assert drawn(0).equal(drawn(0.7))
