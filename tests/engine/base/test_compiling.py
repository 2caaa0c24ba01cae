"""Compiled blocks against plain ones, with torch's backend that compiles without a compiler of machine code."""

from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.base.test_base_model import base_with, inputs
from fluxduel.tests.engine.base.test_checkpointing import gradients, same
from fluxduel.tests.engine.base.test_streaming import JUDGE, STAGE_1, STAGE_2, assert_same, trained
from fluxduel.tests.engine.conftest import make_data
from fluxduel.tests.engine.small import each_family, small_of
from fluxduel.training.base import compiling
from fluxduel.training.base.base_model import CHECKPOINTING, BaseReference, FluxBase
from fluxduel.training.base.base_shelf import BaseShelf
from fluxduel.training.base.compiling import CompiledBlocks, compile_blocks
from fluxduel.training.base.streaming import stream
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import Stage

# Of all kinds of passes together, by family. In FLUX.3 the prompt's and the picture's blocks are one kind, and velocity
# is modulated token by token, but features picture by picture.
GRAPHS = {"FLUX.1": 8, "FLUX.2": 8, "FLUX.3": 12}


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiling.BACKENDS, "cpu", "aot_eager")


def compiled(base: FluxBase) -> CompiledBlocks:
    blocks, problem = compile_blocks(base)
    assert blocks is not None, problem
    return blocks


@torch.no_grad()
def looks(base: FluxBase, batch: int = 2, height: int = 4) -> list[Tensor]:
    """With the adapter and without it, and a look."""
    given = inputs(batch=batch, small=small_of(base))
    x_t = given.pop("x_t")[..., :height, :]
    plain = [base.velocity(x_t, **given, adapter=each) for each in (True, False)]
    return [*plain, *base.features(x_t, **given, taps=(1, 3))]


@each_family
def test_passes_are_the_plain_ones_to_the_last_bit_at_all_levels_and_streamed(start) -> None:
    plain, base = base_with(start), base_with(start)
    before = torch._dynamo.config.recompile_limit
    blocks = compiled(base)
    assert same(looks(base), looks(plain)) and same(looks(base, height=2), looks(plain, height=2))
    runs = []
    base.blocks[-1].register_forward_pre_hook(lambda *_: runs.append(base.checkpointing))
    for level in CHECKPOINTING:
        base.checkpointing = plain.checkpointing = level
        assert same(gradients(base), gradients(plain)), level
    # What is wide alone cannot be left out of a compiled block, so at that level the whole is computed anew.
    assert [runs.count(level) for level in CHECKPOINTING] == [3, 6, 6]
    made = blocks.graphs
    # Streaming copies blocks before they are called: that is not compiled, and needs no graphs of its own.
    stream(base, "cpu", 1.0)
    assert same(gradients(base), gradients(plain)) and same(looks(base), looks(plain))
    print(f"all passes of {base.family.name}: {made} graphs")
    assert blocks.graphs == made <= GRAPHS[base.family.name]
    assert blocks.take_notes() == [] and torch._dynamo.config.recompile_limit == before


def make(kind: str, start: lora.FluxLoRA, **changes: Any) -> Stage:
    data = make_data(small=small_of(start))
    if kind == "stage 1":
        return DiffusionStage(start, data, dataclasses.replace(STAGE_1, **changes), device="cpu")
    return AdversarialStage(start, data, JUDGE, dataclasses.replace(STAGE_2, **changes), device="cpu")


@each_family
@pytest.mark.parametrize(
    ("kind", "precision", "changes", "most"),
    [
        ("stage 1", "bf16", {"gradient_checkpointing": False}, 2),
        ("stage 2", "int8_convrot", {"streamed_share": 0.5}, 10),
    ],
)
def test_stages_train_the_same_with_few_graphs(start, kind: str, precision: str, changes, most: int) -> None:
    start = dataclasses.replace(start, base=BaseReference(start.base.path, precision))
    plain, stage = make(kind, start, **changes), make(kind, start, **changes, compile_blocks=True)
    assert stage.compiled is not None and not stage.compiled.graphs
    wanted, found = trained(plain, last=2), trained(stage, last=2)
    assert_same(found, wanted)
    print(f"{kind}: {stage.compiled.graphs} graphs")
    assert 2 <= stage.compiled.graphs <= most < compiling.MOST_GRAPHS
    assert not any("compile" in note for note in stage.take_notes())


def test_too_many_graphs_are_told_once_and_computed_as_they_are(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MOST_GRAPHS", 1)
    plain, base = base_with(start), base_with(start)
    blocks = compiled(base)
    for _ in range(2):
        assert same(looks(base), looks(plain))
    (note,) = blocks.take_notes()
    assert "could not compile some of the base's passes" in note and "after 2 graphs" in note
    # A pass that had no graph has none where its blocks are computed anew, either.
    base.checkpointing = plain.checkpointing = "blocks"
    assert same(gradients(base), gradients(plain))
    assert blocks.take_notes() == [] and blocks.graphs == 2


@pytest.mark.parametrize(
    ("backends", "split", "words"),
    [
        ({"cpu": "nonesuch"}, False, r"torch cannot compile here \(.*nonesuch.*Blocks run as they are"),
        ({}, False, "on cpu blocks are not compiled"),
        ({"cpu": "aot_eager"}, True, "split over cards"),
    ],
)
def test_where_nothing_can_be_compiled_it_is_said(start, monkeypatch, backends, split: bool, words: str) -> None:
    monkeypatch.setattr(compiling, "BACKENDS", backends)
    base = base_with(start)
    blocks, problem = compile_blocks(base, split)
    assert blocks is None and re.search(words, problem)
    assert same(looks(base), looks(base_with(start)))


def test_a_stage_that_cannot_compile_says_so_and_trains(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKENDS", {"cpu": "nonesuch"})
    stage = make("stage 1", start, compile_blocks=True)
    assert any("torch cannot compile here" in note for note in stage.take_notes())
    assert_same(trained(stage, last=1), trained(make("stage 1", start), last=1))


def test_torch_keeps_nothing_of_a_base_that_was_compiled(start) -> None:
    base = base_with(start)
    blocks = compiled(base)
    with torch.no_grad():
        base.velocity(**inputs())
    assert blocks.graphs
    there = weakref.ref(base.transformer)
    del base, blocks
    gc.collect()
    assert there() is None


def test_a_kept_base_is_plain_again(random_transformer: Path) -> None:
    shelf, reference = BaseShelf(), BaseReference(str(random_transformer), "fp32")
    base = shelf(reference, "cpu")
    compiled(base)
    again = shelf(reference, "cpu")
    assert again.transformer is base.transformer and not again.compiled
    assert not any("forward" in vars(block) for block in again.blocks)
