"""What a stage is said to need before anything is loaded, against what it needs when it runs."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data
from fluxduel.tests.engine.small import LENGTH, Small, each_family, small_of
from fluxduel.training.base import footprint
from fluxduel.training.base.base_model import (
    CHECKPOINTING,
    BaseReference,
    empty_transformer,
    load_base,
    read_transformer_config,
)
from fluxduel.training.base.footprint import Bytes, Counted
from fluxduel.training.base.streaming import stream
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages import rehearsal
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.rehearsal import Demand, Depth, rehearse

SIDE = 16


@pytest.fixture(scope="module")
def deep(family: Small, tmp_path_factory: pytest.TempPathFactory) -> FluxLoRA:
    """A LoRA on a base of 6 double and 8 single blocks."""
    folder = tmp_path_factory.mktemp("deep")
    family.transformer(6, 8, num_attention_heads=4).save_pretrained(folder)
    return lora.create(BaseReference(str(folder), "bf16"), LoRAConfig(rank=4, alpha=4.0))


def demand(judge: DiscriminatorConfig | None, level: str = "blocks", batch_size: int = 2) -> Demand:
    return Demand((SIDE, SIDE), LENGTH, batch_size, level, judge, copies=0)


def in_full(lora: FluxLoRA, wanted: Demand, judge: DiscriminatorConfig | None) -> int:
    """Bytes besides weights where every block is run."""
    passes = rehearsal._passes(lora, lora.base.precision, Depth(6, 8), wanted, judge)
    return max(passes.ahead, passes.back, passes.judged)


@each_family
@pytest.mark.parametrize("level", CHECKPOINTING)
@pytest.mark.parametrize("taps", [None, "", "d1,d5,s3", "s6"])
def test_a_few_blocks_tell_what_all_of_them_keep(deep, taps, level):
    judge = None if taps is None else DiscriminatorConfig(taps=taps, width=8)
    wanted = demand(judge, level)
    found = rehearse(deep, "bf16", wanted).working
    whole = in_full(deep, wanted, judge)
    print(f"{found / whole:.3f} of what all blocks need")
    # A look keeps less of a block than the LoRA's pass does, where nothing is computed anew.
    assert 0.98 < found / whole < (1.03 if level == "blocks" or judge is None else 1.15)


@each_family
@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8"])
def test_the_weights_are_those_that_are_loaded(deep, precision):
    base = load_base(BaseReference(deep.base.path, precision), "cpu")
    held = [sum(weight.nbytes for weight in block.state_dict().values()) for block in base.blocks]
    counted = rehearse(deep, precision, demand(None))
    assert list(counted.blocks) == held
    whole = sum(weight.nbytes for weight in base.transformer.state_dict().values())
    assert counted.outside == whole - sum(held)
    adapted = sum(tensor.nbytes for tensor in deep.tensors.values())
    assert counted.trained == rehearsal.TRAINED_COPIES * adapted


@each_family
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize(
    ("kind", "checkpointed"), [("diffusion", True), ("diffusion", False), ("adversarial", False)]
)
def test_a_real_step_needs_what_was_counted(deep, kind, precision, checkpointed):
    """The stage's own step on the CPU, with every tensor that it makes counted."""
    start = dataclasses.replace(deep, base=BaseReference(deep.base.path, precision))
    data = make_data(side=SIDE, small=small_of(deep))
    common = dict(steps=3, batch_size=2, gradient_checkpointing=checkpointed, ema_decay=0.0, validate_every=0)
    judge = DiscriminatorConfig(width=8, augmentation="off", penalty_share=1.0) if kind == "adversarial" else None
    if judge is None:
        stage = DiffusionStage(start, data, DiffusionStageConfig(**common), device="cpu")
    else:
        config = AdversarialStageConfig(**common, watch=False, discriminator_warmup=0)
        stage = AdversarialStage(start, data, judge, config, device="cpu")
    stage.step(0)
    # The moments are there from now on, and so are gradients.
    for weight in (*stage.optimiser.parameters, *(stage.judges.parameters() if judge else ())):
        weight.grad = torch.zeros_like(weight)
    modules = [stage.base.transformer, *([stage.judges] if judge else [])]
    with Bytes(*modules) as counted:
        stage.step(1)
    said = rehearse(start, precision, demand(judge, stage.base.checkpointing))
    print(f"{kind} {precision}: said {said.working}, found {counted.peak}")
    # Latents, noise and target lie beside the pass: of a real base's width they are next to nothing.
    batch = 3 * 2 * data.samples[0].mean.nbytes
    assert said.working + batch == pytest.approx(counted.peak, rel=0.12)


def test_streamed_blocks_leave_a_ring():
    counted = Counted(blocks=(10, 10, 10, 20, 20), outside=3, trained=5, working=7)
    assert counted.with_streamed(0) == 70 + 15
    # Two of five, at even distances: the second and the fourth, and the ring has room for two of the larger one.
    assert counted.with_streamed(0.4) == 40 + 40 + 15
    assert counted.with_streamed(0.4, slots=1) == 40 + 20 + 15
    assert counted.with_streamed(1.0) == 40 + 15
    assert [counted.elsewhere(share) for share in (0, 0.4, 1)] == [0, 30, 70]


@each_family
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 1.0])
def test_what_is_counted_of_a_streamed_base_is_where_it_lies(deep, share):
    """Blocks are of two sizes, and streamed from all over the depth."""
    base = load_base(deep.base, "cpu")
    whole = rehearse(deep, "bf16", demand(None))
    streamer = stream(base, "cpu", share)
    # Each tensor begins at a round address, which tells in a small base.
    assert streamer.ring.host_bytes == pytest.approx(whole.elsewhere(share), rel=0.04)
    held = whole._replace(trained=0, working=0).with_streamed(share)
    outside = sum(weight.nbytes for weight in base.transformer.state_dict().values())
    inside = [sum(weight.nbytes for weight in base.blocks[index].state_dict().values()) for index in streamer.blocks]
    slots = min(2, len(inside)) * max(inside)
    assert held == pytest.approx(outside - sum(inside) + slots, rel=0.01)


@each_family
def test_a_lora_on_late_blocks_alone_is_counted_whole(deep):
    late = lora.create(deep.base, LoRAConfig(rank=4, targets="regex", target_regex=r"single_transformer_blocks\.7\..*"))
    found = rehearse(late, "bf16", demand(None))
    assert found.working == in_full(late, demand(None), None)


def test_numbers_are_nowhere(deep):
    """The base that is counted has no memory of its own."""
    base = rehearsal.empty_base(BaseReference(deep.base.path, "int8_convrot"))
    assert all(weight.is_meta for weight in base.transformer.state_dict().values())
    assert base.device == torch.device("meta")
    assert Path(deep.base.path).is_dir()


@pytest.mark.parametrize("func", sorted(footprint._POINTWISE, key=str), ids=str)
def test_a_pointwise_result_has_the_shape_and_type_that_torch_gives(func):
    wide, narrow = torch.empty(2, 1, 3, dtype=torch.bfloat16, device="meta"), torch.empty(4, 3, device="meta")
    level = torch.empty((), device="meta")
    names = [argument.name for argument in func._schema.arguments if not argument.has_default_value()]
    pairs = [(wide, narrow), (narrow, wide), (wide, level), (level, wide)] if names[1:2] == ["other"] else [(wide, 2)]
    for given in pairs:
        given = (wide, wide) if names[0] == "grad_output" else given[: len(names)]
        found, truth = footprint._pointwise(func, given), func(*given)
        assert (found.shape, found.dtype, found.device) == (truth.shape, truth.dtype, truth.device)


def test_what_another_thread_makes_meanwhile_has_its_weights(deep):
    """The check before Run looks at bases while the host may be loading models."""
    config, over, seen = read_transformer_config(deep.base.path), threading.Event(), []

    def make() -> None:
        while not over.is_set():
            seen.append(torch.nn.Linear(2, 2).weight.is_meta)

    other = threading.Thread(target=make)
    other.start()
    for _ in range(20):
        empty_transformer(config)
    over.set()
    other.join()
    assert len(seen) > 20 and not any(seen)
