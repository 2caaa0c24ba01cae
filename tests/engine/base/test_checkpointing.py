"""The levels at which blocks are computed anew: the same gradients, and what each keeps at FLUX's width."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fluxduel.tests.engine.base.test_base_model import base_with, inputs
from fluxduel.tests.engine.base.test_streaming import JUDGE, STAGE_1, STAGE_2
from fluxduel.tests.engine.conftest import make_data
from fluxduel.tests.engine.small import each_family, small_of
from fluxduel.tests.full_size import TOKENS, full_size_reference
from fluxduel.training.base.base_model import CHECKPOINTING, BaseReference, FluxBase, empty_base, load_base
from fluxduel.training.base.feed_forward import narrow
from fluxduel.training.base.footprint import Bytes, FlashAttention
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.rehearsal import Demand, update_of_stage_1
from fluxduel.training.stages.rehearsal import inputs as of_size


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gradients(base: FluxBase, retain: bool = False) -> list[Tensor]:
    """Of the adapter and of the latents, through a pass with it and a pass and a look without it, all alive at once.

    ``retain``: taken for the second time.
    """
    given = inputs(small=small_of(base))
    x_t = given.pop("x_t").requires_grad_()
    velocity = base.velocity(x_t, **given)
    x0 = x_t - 0.6 * velocity
    frozen = base.velocity(x0, **given, adapter=False)
    maps = base.features(x0, **given, taps=(0, 3))
    loss = velocity.pow(3).mean() + frozen.square().mean() + sum(each.square().mean() for each in maps)
    wanted = [x_t, *lora.parameters(base)]
    if retain:
        torch.autograd.grad(loss, wanted, retain_graph=True)
    return [velocity.detach(), *torch.autograd.grad(loss, wanted)]


@each_family
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_all_levels_give_the_same_gradients_to_the_last_bit(random_transformer, precision: str, targets: str) -> None:
    reference = BaseReference(str(random_transformer), precision)
    generator = torch.Generator().manual_seed(1)
    fresh = lora.create(reference, LoRAConfig(rank=4, targets=targets))
    tensors = {name: 0.1 * torch.randn(each.shape, generator=generator) for name, each in fresh.tensors.items()}
    base = base_of(dataclasses.replace(fresh, tensors=tensors))
    found = []
    for level in CHECKPOINTING:
        base.checkpointing = level
        found.append(gradients(base))
    base.checkpointing = "feed_forward"
    found.append(gradients(base, retain=True))
    assert all(each.any() for each in found[0])
    assert all(same(each, found[0]) for each in found)


def base_of(start: FluxLoRA) -> FluxBase:
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    return base


@each_family
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_both_stages_train_the_same_at_all_levels(start, family, kind: str) -> None:
    found = []
    for level in CHECKPOINTING:
        data = make_data(small=family)
        if kind == "stage 1":
            stage = DiffusionStage(start, data, STAGE_1, device="cpu")
        else:
            stage = AdversarialStage(start, data, JUDGE, STAGE_2, device="cpu")
        stage.base.checkpointing = level
        for step in range(2):
            stage.step(step)
        found.append([each for part in stage.state()[0].values() for each in part.values()])
    assert same(found[1], found[0]) and same(found[2], found[0])


class NotBound(FluxBase):
    """The mistake: the hidden layers are computed anew in whatever state the adapter then is."""

    def _with_gradient(self, block: torch.nn.Module, *args: Any) -> Any:
        return narrow(block, *args, parts=self.family.hidden_parts(block), computing=nullcontext)


@each_family
def test_a_switch_that_is_not_bound_to_the_call_gives_another_gradient(start) -> None:
    plain, wrong = base_with(start), base_with(start, NotBound)
    wrong.checkpointing = "feed_forward"
    assert not same(gradients(wrong), gradients(plain))


def test_a_level_that_there_is_not_is_refused(start) -> None:
    with pytest.raises(ValueError, match=r"none, feed_forward, blocks, got 'half'"):
        base_with(start).checkpointing = "half"


# At FLUX's width


def wide(folder: Path, model: str, precision: str, double: int, single: int) -> FluxBase:
    """A few of a model's blocks, adapted, on the meta device."""
    reference = BaseReference(full_size_reference(folder, model).path, precision)
    base = empty_base(reference, num_layers=double, num_single_layers=single)
    fresh = lora.create(reference, LoRAConfig(rank=16, alpha=16.0))
    there = {
        name: tensor
        for name, tensor in fresh.tensors.items()
        if int(name.split("_blocks.")[1].split(".")[0]) < (single if name.startswith("single") else double)
    }
    lora.attach(base, dataclasses.replace(fresh, tensors=there))
    for weight in lora.parameters(base):
        weight.grad = torch.zeros_like(weight)
    return base


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("blocks", [(2, 0), (0, 2)], ids=["double", "single"])
@pytest.mark.parametrize("model", ["", "FLUX.2 klein 4B"])
def test_each_level_keeps_clearly_less_and_computes_more(tmp_path: Path, model: str, precision: str, blocks) -> None:
    """Counted at 1024 px. Kept for the backward pass: FLUX.1 1, 0.53 to 0.62 and 0.08, FLUX.2 1, 0.44 to 0.53 and 0.08;
    operations: FLUX.1 1, 1.13 and 1.5, FLUX.2, whose single blocks have one product for all, 1, 1.2 to 1.3 and 1.5."""
    base = wide(tmp_path, model, precision, *blocks)
    side = 1024 // base.family.space.factor
    given = of_size(base, Demand((side, side), TOKENS))
    kept, left, operations = [], [], []
    for level in CHECKPOINTING:
        base.checkpointing, base.attention = level, FlashAttention
        with Bytes(base.transformer) as counted:
            velocity = base.velocity(*given, 1.0)
            kept.append(counted.alive)
            velocity.square().mean().backward()
            del velocity
        left.append(counted.alive)
        base.attention = nullcontext
        with FlopCounterMode(display=False) as counter:
            update_of_stage_1(base, given)
        operations.append(counter.get_total_flops())
    shares = [[each / row[0] for each in row] for row in (kept, operations)]
    print(f"{precision} {blocks}: kept {shares[0]}, operations {shares[1]}, {kept[0] / 2**20:.0f} MiB")
    assert len(set(left)) == 1
    assert 0.4 < shares[0][1] < 0.65 and shares[0][2] < 0.12
    # torch does not count products of integers.
    assert precision == "int8" or (1.05 < shares[1][1] < 1.3 and shares[1][2] > 1.4)
