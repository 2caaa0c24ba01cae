"""A base whose blocks are streamed trains, samples and resumes as one that is on the device whole, bit for bit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor, distributed
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import set_checkpoint_early_stop

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data, practice_prompts, with_phrase
from fluxduel.tests.engine.small import CONTEXT, LENGTH, Small, each_family
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base, nothing_kept
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.frozen_linear import FrozenLinear
from fluxduel.training.base.int8_kernels import best_kernel
from fluxduel.training.base.streaming import Streamer, spread, stream
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import Stage

DOUBLES, SINGLES = 3, 4
COUNT = DOUBLES + SINGLES
STEPS = 3
SHARES = [3 / COUNT, 1.0]
PRECISIONS = ["fp32", "bf16", "int8"]
PASSES = [("fp32", 1), ("fp32", 2), ("bf16", 2), ("int8", 1)]
SMALL: dict[str, Any] = {"steps": 8, "batch_size": 2, "learning_rate": 1e-2}
STAGE_1 = DiffusionStageConfig(**SMALL, ema_decay=0.5)
STAGE_2 = AdversarialStageConfig(**SMALL, discriminator_warmup=1, target_steps=2, watch_pictures=4)
# Everything that sends the base through its blocks in an order of its own.
EVERYTHING = dataclasses.replace(
    STAGE_2, target="two_samplers", anchor="start", practice_share=0.0, gradient_accumulation=2, discriminator_updates=2
)
JUDGE = DiscriminatorConfig(width=8, learning_rate=1e-2)
CURIOUS = dataclasses.replace(JUDGE, penalty_share=1.0, replay_share=0.5, mismatched_share=0.5)


@pytest.fixture(scope="module")
def random_transformer(family: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deeper than the others', so that there is something to stream; every weight is random."""
    return family.save(tmp_path_factory.mktemp("deep-transformer"), DOUBLES, SINGLES)


@pytest.fixture
def data(family: Small):
    return dataclasses.replace(with_phrase(make_data(small=family)), practice_prompts=practice_prompts(small=family))


def in_precision(start: FluxLoRA, precision: str) -> FluxLoRA:
    return dataclasses.replace(start, base=BaseReference(start.base.path, precision))


def loaded(start: FluxLoRA, share: float = 0.0, slots: int = 2) -> tuple[FluxBase, Streamer]:
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    streamer = stream(base, DEVICE, share, slots)
    base.checkpointing = "blocks"
    return base, streamer


def given(base: FluxBase, batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"prompt_embeds": (batch, LENGTH, CONTEXT), "pooled_prompt_embeds": (batch, base.pooled_dim)}
    drawn = {name: torch.randn(shape, generator=generator).to(DEVICE) for name, shape in shapes.items()}
    return drawn | {"sigma": torch.tensor([0.25, 0.75])[:batch].to(DEVICE), "guidance": 3.5}


def latents(base: FluxBase, seed: int = 2) -> Tensor:
    return torch.randn(2, base.latent_channels, 4, 6, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


MAKE: dict[str, Callable[[FluxLoRA, Any], Stage]] = {
    "stage 1": lambda start, data: DiffusionStage(start, data, STAGE_1, device=DEVICE),
    "stage 2": lambda start, data: AdversarialStage(start, data, JUDGE, STAGE_2, device=DEVICE),
    "everything": lambda start, data: AdversarialStage(start, data, CURIOUS, EVERYTHING, device=DEVICE),
}


def trained(stage: Stage, first: int = 0, last: int = STEPS) -> list[Any]:
    """What is logged of the steps from ``first`` to ``last``, and what is known after them."""
    told = [stage.step(step) for step in range(first, last)]
    return [*told, *stage.state(), stage.delivered()]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, whatever is in what."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{place}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other) and one.dtype == other.dtype, where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def known() -> dict[Any, list[Any]]:
    """What resident bases give, trained with once."""
    return {}


# The same results


@each_family
@pytest.mark.parametrize(
    ("precision", "share", "slots"),
    [
        *(("fp32", share, slots) for share in SHARES for slots in (1, 2)),
        *(("bf16", *case) for case in zip(SHARES, (2, 1), strict=True)),
        *(("int8", *case) for case in zip(SHARES, (1, 2), strict=True)),
    ],
)
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_training_is_that_of_a_resident_base(
    start, data, family, known, kind: str, precision: str, share: float, slots: int
) -> None:
    start = in_precision(start, precision)
    case = (family.family.name, kind, precision)
    if case not in known:
        known[case] = trained(MAKE[kind](start, data))
    stage = MAKE[kind](start, data)
    streamer = stream(stage.base, DEVICE, share, slots)
    assert_same(trained(stage), known[case])
    assert streamer.ring.copies > 0 and len(streamer.blocks) == round(share * len(stage.base.blocks))


@each_family
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_measurements_are_those_of_a_resident_base(start, data, kind: str) -> None:
    """They sample and look without a gradient, and the watch decides by them."""
    stages = [MAKE[kind](start, data) for _ in range(2)]
    stream(stages[1].base, DEVICE, 1.0)
    found = [[stage.validate(lambda: None), stage.step(0), stage.validate(lambda: None)] for stage in stages]
    assert_same(*found)


@each_family
def test_training_with_every_order_of_looks_is_that_of_a_resident_base(start, data) -> None:
    stages = [MAKE["everything"](start, data) for _ in range(2)]
    streamer = stream(stages[1].base, DEVICE, 1.0)
    assert_same(*(trained(stage) for stage in stages))
    assert streamer.ring.copies > 100


@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_streaming_nothing_changes_nothing(start, data, kind: str) -> None:
    stages = [MAKE[kind](start, data) for _ in range(2)]
    streamer = stream(stages[1].base, DEVICE, 0.0)
    assert_same(*(trained(stage) for stage in stages))
    assert streamer.blocks == () and streamer.ring.copies == streamer.ring.device_bytes == 0


@each_family
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_run_goes_on_streamed_or_not_as_it_began(
    start, data, family, known, kind: str, before: float, after: float
) -> None:
    """A checkpoint says nothing of where the base has lain."""
    case = (family.family.name, kind, "fp32")
    if case not in known:
        known[case] = trained(MAKE[kind](start, data))
    first, second = (MAKE[kind](start, data) for _ in range(2))
    stream(first.base, DEVICE, before)
    stream(second.base, DEVICE, after, slots=1)
    head = trained(first, 0, 1)
    second.restore(*first.state())
    tail = trained(second, 1, STEPS)
    assert_same([*head[:1], *tail], known[case])


@each_family
@pytest.mark.parametrize(("precision", "slots"), PASSES)
@pytest.mark.parametrize("adapter", [True, False])
def test_velocity_and_its_gradients_are_those_of_a_resident_base(start, precision, adapter: bool, slots: int) -> None:
    found = []
    for share in (0.0, *SHARES):
        base, _ = loaded(in_precision(start, precision), share, slots)
        x_t = latents(base).requires_grad_()
        with torch.no_grad():
            quiet = base.velocity(x_t, **given(base), adapter=adapter)
        velocity = base.velocity(x_t, **given(base), adapter=adapter)
        velocity.square().mean().backward()
        found.append([quiet, velocity, x_t.grad, [p.grad for p in lora.parameters(base)]])
        assert all((p.grad is not None) == adapter for p in lora.parameters(base))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@each_family
@pytest.mark.parametrize(("precision", "slots"), PASSES)
def test_two_graphs_at_once_are_those_of_a_resident_base(start, precision: str, slots: int) -> None:
    """A velocity, then features of what it leads to, and both walked back: the later one first, as in stage 2."""
    found = []
    for share in (0.0, *SHARES):
        base, _ = loaded(in_precision(start, precision), share, slots)
        x_t = latents(base).requires_grad_()
        velocity = base.velocity(x_t, **given(base))
        endpoint = (x_t - velocity).detach().requires_grad_()
        maps = base.features(endpoint, **given(base), taps=(1, 4))
        (inner,) = torch.autograd.grad(sum(m.float().square().mean() for m in maps), endpoint)
        velocity.backward(inner)
        found.append([velocity, maps, inner, x_t.grad, [p.grad for p in lora.parameters(base)]])
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_without_a_gradient_nothing_has_to_be_computed_anew(start) -> None:
    found = []
    for share in (0.0, 1.0):
        base, _ = loaded(start, share)
        base.checkpointing = "none"
        with torch.no_grad():
            maps = base.features(latents(base), **given(base), taps=(2, 5))
            found.append([base.velocity(latents(base), **given(base)), maps])
    assert_same(*found)


# Refusals


@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_training_without_checkpointing_is_refused(start, data, kind: str) -> None:
    stage = MAKE[kind](start, data)
    stage.base.checkpointing = "none"
    stream(stage.base, DEVICE, 3 / COUNT)
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        for step in range(2):
            stage.step(step)


def test_a_look_with_a_gradient_but_without_checkpointing_is_refused(start) -> None:
    base, _ = loaded(start, 1.0)
    base.checkpointing = "none"
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        base.features(latents(base).requires_grad_(), **given(base), taps=(1,))


def test_autograd_refuses_what_the_check_would_let_through(start) -> None:
    """The blocks called past the base, without recomputation: their slots are overwritten before the backward pass."""
    base, _ = loaded(start, 1.0)
    x_t = latents(base).requires_grad_()

    def straight(block: torch.nn.Module, *arguments: Any) -> Any:
        return block(*arguments)

    base.transformer.enable_gradient_checkpointing(straight)
    loss = base.velocity(x_t, **given(base)).mean()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_base_that_is_streamed_from_within_inference_mode_is_no_less_safe(start) -> None:
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    with torch.inference_mode():
        stream(base, DEVICE, 1.0)
    weights = [parameter for block in base.blocks for parameter in block.parameters()]
    assert not any(weight.is_inference() for weight in weights)


def test_a_base_that_was_moved_while_streamed_is_refused(start) -> None:
    base, streamer = loaded(start, 1.0)
    base.blocks[1].to(torch.float64)
    with pytest.raises(RuntimeError, match="Release the streamer"), torch.no_grad():
        base.velocity(latents(base), **given(base))
    streamer.release()


@pytest.mark.parametrize(
    ("share", "slots", "words"),
    [(-0.1, 2, "from 0 to 1"), (1.1, 2, "from 0 to 1"), (float("nan"), 2, "from 0 to 1"), (0.5, 0, "1 slot")],
)
def test_shares_and_slots_out_of_range_are_refused(start, share: float, slots: int, words: str) -> None:
    base = load_base(start.base, "cpu")
    with pytest.raises(ValueError, match=words):
        stream(base, DEVICE, share, slots)


def test_a_base_is_streamed_once_at_a_time(start) -> None:
    base, streamer = loaded(start, 1.0)
    with torch.no_grad():
        wanted = base.velocity(latents(base), **given(base))
    with pytest.raises(ValueError, match="streamed already"):
        stream(base, DEVICE, 0.5)
    streamer.release()
    again = stream(base, DEVICE, 0.5, 1)
    with torch.no_grad():
        assert torch.equal(base.velocity(latents(base), **given(base)), wanted)
    assert again.ring.copies == len(again.blocks) == 4


@contextmanager
def alone() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_a_base_that_is_split_over_ranks_is_refused(start) -> None:
    base = load_base(start.base, "cpu")
    with alone():
        fully_shard(base.blocks[2], mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="several GPUs"):
            stream(base, "cpu", 0.5)


# Where things are


@each_family
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("share", SHARES)
def test_what_is_on_the_device_is_bounded_by_the_slots(start, share: float, slots: int) -> None:
    base, streamer = loaded(start, share, slots)
    chosen = [base.blocks[index] for index in streamer.blocks]
    frozen = [sum(p.nbytes for p in block.parameters() if not p.requires_grad) for block in chosen]
    # Each tensor begins at a multiple of 512 bytes.
    padding = 512 * sum(1 for block in chosen for _ in block.parameters())
    ring = streamer.ring
    assert sum(frozen) <= ring.host_bytes <= sum(frozen) + padding
    assert 0 < ring.device_bytes <= slots * (max(frozen) + padding)
    # All that the streamed blocks compute with lies in one storage a slot, or is trained.
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for block in chosen
        for p in [*block.parameters(), *block.buffers()]
        if not p.requires_grad
    }
    assert len(storages) == min(slots, len(chosen)) and sum(storages.values()) == ring.device_bytes
    velocity = base.velocity(latents(base), **given(base))
    velocity.mean().backward()
    assert {p.untyped_storage().data_ptr() for p in chosen[0].parameters() if not p.requires_grad} <= set(storages)
    assert base.device.type == torch.device(DEVICE).type
    assert {p.device for p in base.transformer.parameters()} == {base.device}


def test_everything_but_the_masters_goes_to_the_device(start) -> None:
    """To one that holds no numbers, as every test machine has: what is there is told by where it lies."""
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    streamer = stream(base, "meta", 3 / COUNT)
    tensors = [*base.transformer.parameters(), *base.transformer.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"} == {base.device.type}
    streamer.release()
    streamed = {p for index in streamer.blocks for p in base.blocks[index].parameters() if not p.requires_grad}
    assert all((p.device.type == "cpu") == (p in streamed) for p in base.transformer.parameters())


@each_family
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_the_meta_device_the_same_is_copied_without_numbers(start, precision: str) -> None:
    """What a plan counts before anything large is loaded."""
    found = []
    for device in (DEVICE, "meta"):
        base = load_base(in_precision(start, precision).base, "cpu")
        if device == "meta":
            base.transformer.to("meta")
        lora.attach(base, start)
        ring = stream(base, device, 1.0).ring
        base.checkpointing = "blocks"
        inputs = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in given(base).items()}
        velocity = base.velocity(latents(base).to(device), **inputs)
        velocity.mean().backward()
        found.append((velocity.shape, ring.device_bytes, ring.host_bytes, ring.copies))
    assert found[0] == found[1] and found[0][3] == 2 * len(base.blocks) - 2


def test_int8_layers_compute_by_the_device_that_they_come_to(start) -> None:
    base = load_base(in_precision(start, "int8").base, "cpu")
    layers = [layer for layer in base.transformer.modules() if isinstance(layer, FrozenLinear)]
    for layer in layers:
        layer.kernel = "of the device that it was loaded on"
    stream(base, DEVICE, 0.5)
    assert len(layers) > 50 and {layer.kernel for layer in layers} == {best_kernel(base.device, 0)}


def test_the_adapter_stays_the_same_and_is_not_streamed(start) -> None:
    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    before = lora.parameters(base)
    streamer = stream(base, DEVICE, 1.0)
    assert all(one is other for one, other in zip(lora.parameters(base), before, strict=True))
    assert_same(lora.snapshot(base), {name: t for name, t in start.tensors.items()})
    with torch.no_grad():
        for parameter in before:
            parameter.add_(1)
    streamer.release()
    assert all(torch.equal(lora.snapshot(base)[name], t + 1) for name, t in start.tensors.items())


def test_a_released_base_is_whole_again(start) -> None:
    base, streamer = loaded(start, 1.0)
    with torch.no_grad():
        streamed = base.velocity(latents(base), **given(base))
    streamer.release()
    frozen = [p for block in base.blocks for p in block.parameters() if not p.requires_grad]
    assert all(p.device.type == "cpu" for p in frozen)
    base.transformer.to(DEVICE)
    copies = streamer.ring.copies
    with torch.no_grad():
        assert torch.equal(base.velocity(latents(base), **given(base)), streamed)
    assert streamer.ring.copies == copies
    kept = load_base(start.base, "cpu").transformer.state_dict()
    held = {name.replace(".base_layer", ""): t for name, t in base.transformer.state_dict().items()}
    assert all(torch.equal(held[name].cpu(), tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("count", [1, 4, 7, 57])
def test_streamed_blocks_are_spread_evenly(count: int) -> None:
    for chosen in range(count + 1):
        blocks = spread(count, chosen / count)
        assert len(set(blocks)) == chosen and list(blocks) == sorted(blocks)
        assert all(0 <= block < count for block in blocks)
        # From one to the next, around the ends too, since the way back follows.
        gaps = {b - a for a, b in zip(blocks, [*blocks[1:], blocks[0] + count] if blocks else [], strict=True)}
        assert not gaps or max(gaps) - min(gaps) <= 1
    assert spread(57, 0.004) == () and len(spread(57, 0.5)) in (28, 29)


# Copies


def order(stage: Stage) -> list[int]:
    """Filled with the blocks in the order in which they run from now on."""
    found: list[int] = []
    for index, block in enumerate(stage.base.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: found.append(index))
    return found


def order_of(kind: str, prompts: int) -> list[int]:
    """Of a step, where the first ``prompts`` blocks are the prompt's alone: nothing leads back through them to a
    picture that is looked at."""
    up = list(range(prompts + COUNT))
    # The judge's last tap is at 0.49 of the depth: block 2 of 7.
    look = up[: prompts + 3]
    looks = look + look + look[prompts:][::-1] if kind == "stage 2" else []
    return up + looks + up[::-1]


# By how many blocks are the prompt's alone. With one slot each change of the block is a copy. With two, both ends of a
# way back and forth are there already: 5 and 5 of 7. In stage 2 a look of 3 brings a fourth, and the way back from it
# what that one has displaced: 5 up, 4, 4 and 2 for the looks, 7 down; of 10 it is 8, 7, 7 and 3, 10. Besides, as many
# as there are slots: where a step has ended the next one begins, and brings the modulation layers that were left out;
# before the first step nothing is there.
COPIES = {
    0: {("stage 1", 1): 13, ("stage 1", 2): 12, ("stage 2", 1): 22, ("stage 2", 2): 24},
    3: {("stage 1", 1): 19, ("stage 1", 2): 18, ("stage 2", 1): 34, ("stage 2", 2): 37},
}
# The blocks whose modulation layers a step does not bring again: all that are copied on the way down, but for those
# where the next step begins.
LEFT_OUT = {
    ("stage 1", 1): [5, 4, 3, 2, 1],
    ("stage 1", 2): [4, 3, 2],
    ("stage 2", 1): [1, 0, 6, 5, 4, 3, 2, 1],
    ("stage 2", 2): [1, 0, 6, 5, 4, 3, 2],
}


def plain_stage(kind: str, start: FluxLoRA, data: Any) -> Stage:
    """Without slopes and held-out reals, which have looks of their own."""
    data = dataclasses.replace(data, practice_prompts=())
    if kind == "stage 1":
        return DiffusionStage(start, data, STAGE_1, device=DEVICE)
    judge = dataclasses.replace(JUDGE, r1=0.0, r2=0.0, augmentation="off")
    config = dataclasses.replace(STAGE_2, discriminator_warmup=0, discriminator_ratio="fixed", watch=False)
    return AdversarialStage(start, data, judge, config, device=DEVICE)


@each_family
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_a_step_copies_what_its_order_asks_for(start, data, family, kind: str, slots: int) -> None:
    stage = plain_stage(kind, start, data)
    streamer = stream(stage.base, DEVICE, 1.0, slots)
    seen, prompts = order(stage), len(stage.base.blocks) - COUNT
    # Where blocks have no modulation layers, they are there whole where the next step begins.
    whole = not any(stage.base.family.modulation_layers(block) for block in stage.base.blocks)
    for step in range(3):
        seen.clear()
        before = streamer.ring.copies
        stage.step(step)
        assert seen == order_of(kind, prompts)
        assert streamer.ring.copies - before == COPIES[prompts][kind, slots] - (slots if whole and step else 0)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_a_step_does_not_bring_modulation_layers_again(start, data, kind: str, precision: str, slots: int) -> None:
    copied = []
    for keeping in (False, True):
        stage = plain_stage(kind, in_precision(start, precision), data)
        ring = stream(stage.base, DEVICE, 1.0, slots).ring
        if not keeping:
            stage.base.keeping = nothing_kept
        stage.step(0)
        before = ring.copied
        stage.step(1)
        copied.append(ring.copied - before)
    sizes = [len(flat.master) - flat.front for flat in ring._flat]
    assert copied[0] - copied[1] == sum(sizes[block] for block in LEFT_OUT[kind, slots]) > 0
    print(f"{kind}, {precision}, {slots} slots: {copied[1] / copied[0]:.3f} of {copied[0]} bytes")


# Modulation layers that are left out


def everywhere(start: FluxLoRA) -> FluxLoRA:
    """A LoRA that sits on the modulation layers, too, and does something there."""
    fresh = lora.create(start.base, LoRAConfig(rank=3, alpha=6.0, targets="all"))
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(t.shape, generator=generator) * 0.05 for name, t in fresh.tensors.items()}
    prompts = r"norm1_context\.linear|modulation_txt\.linear|modulations\.txt\.linear"
    assert any(re.search(prompts, name) for name in tensors)
    return dataclasses.replace(fresh, tensors=tensors)


def ways_back(base: FluxBase) -> list[Any]:
    """Gradients by all that a stage sends through the base."""
    x_t = latents(base).requires_grad_()
    velocity = base.velocity(x_t, **given(base))
    with torch.no_grad():
        quiet = base.velocity(latents(base, 5), **given(base), adapter=False)
    endpoint = (x_t - velocity).detach().requires_grad_()
    maps = base.features(endpoint, **given(base), taps=(1, 4))
    (inner,) = torch.autograd.grad(sum(m.float().square().mean() for m in maps), endpoint)
    with torch.no_grad():
        looked = base.features(latents(base, 6), **given(base), taps=(0,))
    velocity.backward(inner)
    return [velocity, quiet, maps, inner, looked, x_t.grad, [p.grad for p in lora.parameters(base)]]


@each_family
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("precision", [*PRECISIONS, "int8_convrot"])
@pytest.mark.parametrize("early", [True, False])
def test_gradients_of_an_adapter_on_them_are_those_of_a_resident_base(
    start, precision: str, slots: int, early: bool
) -> None:
    start = everywhere(in_precision(start, precision))
    found = []
    with set_checkpoint_early_stop(early):
        for share in (0.0, *SHARES):
            base, _ = loaded(start, share, slots)
            found.append([ways_back(base), ways_back(base)])
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@each_family
@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_training_an_adapter_on_them_is_that_with_a_resident_base(start, data, kind: str) -> None:
    start = everywhere(in_precision(start, "bf16"))
    stages = [MAKE[kind](start, data) for _ in range(2)]
    stream(stages[1].base, DEVICE, 1.0)
    assert_same(*(trained(stage) for stage in stages))


def spoil(streamer: Streamer) -> None:
    """Make nonsense of all modulation layers, on the device and where they come from."""
    ring = streamer.ring
    for flat in ring._flat:
        flat.master[flat.front :] = 0xFF
    for slot in ring._slots:
        slot.buffer[ring._flat[slot.holds].front :] = 0xFF


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("adapter", [True, False])
def test_the_way_back_does_without_them(start, precision: str, adapter: bool) -> None:
    found = []
    for share in (0.0, 1.0):
        base, streamer = loaded(everywhere(in_precision(start, precision)), share)
        x_t = latents(base).requires_grad_()
        velocity = base.velocity(x_t, **given(base), adapter=adapter)
        spoil(streamer)
        velocity.square().mean().backward()
        found.append([velocity, x_t.grad, [p.grad for p in lora.parameters(base)]])
        if share:
            assert base.velocity(latents(base), **given(base)).isnan().any()
    assert_same(*found)


def test_whoever_reads_one_that_is_not_there_fails(start) -> None:
    base, streamer = loaded(start, 1.0)
    block, read = base.blocks[COUNT - 3], []
    block.attn.register_forward_pre_hook(lambda *_: read.append(block.norm.linear.weight.sum()))
    x_t = latents(base).requires_grad_()
    velocity = base.velocity(x_t, **given(base))
    assert len(read) == 1
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'sum'"):
        velocity.mean().backward()
    # Afterwards all is as it was.
    assert torch.equal(base.velocity(x_t, **given(base)), velocity)
    streamer.release()


@pytest.mark.parametrize("slots", [1, 2])
def test_a_vector_that_needs_a_gradient_is_computed_anew(start, slots: int) -> None:
    found, copied = [], []
    for share in (0.0, 1.0):
        base, streamer = loaded(everywhere(start), share, slots)
        inputs = given(base)
        inputs["pooled_prompt_embeds"].requires_grad_()
        velocity = base.velocity(latents(base), **inputs)
        velocity.square().mean().backward()
        found.append([velocity, inputs["pooled_prompt_embeds"].grad, [p.grad for p in lora.parameters(base)]])
        copied.append(streamer.ring.copied)
    assert_same(*found)
    # There and back, but for what is there where it turns.
    sizes = [len(flat.master) for flat in streamer.ring._flat]
    assert copied[1] == 2 * sum(sizes) - sum(sizes[-slots:])


@pytest.mark.parametrize("again", [False, True])
def test_a_way_back_after_the_streamer_was_released_computes_whole_blocks(start, again: bool) -> None:
    found = []
    for share in (0.0, 1.0):
        base, streamer = loaded(start, share)
        x_t = latents(base).requires_grad_()
        velocity = base.velocity(x_t, **given(base))
        streamer.release()
        base.transformer.to(DEVICE)
        if share and again:
            streamer = stream(base, DEVICE, 0.5, 1)
        velocity.square().mean().backward()
        found.append([velocity, x_t.grad, [p.grad for p in lora.parameters(base)]])
    assert_same(*found)


def test_nothing_is_left_on_them(start) -> None:
    base, streamer = loaded(everywhere(start), 1.0)
    layers = [layer for block in base.blocks for layer in FLUX1.modulation_layers(block)]
    assert len(layers) == 2 * DOUBLES + SINGLES
    layers = [layer.get_base_layer() for layer in layers]
    before = [vars(layer).keys() for layer in layers]
    assert all(not layer.weight.requires_grad for layer in layers)
    for _ in range(2):
        base.velocity(latents(base).requires_grad_(), **given(base)).mean().backward()
    assert [vars(layer).keys() for layer in layers] == before
    assert not any(layer._forward_hooks for layer in layers) and all(layer.weight is not None for layer in layers)
    streamer.release()
    assert base.keeping is nothing_kept


def test_they_are_27_percent_of_flux_and_give_2_mib() -> None:
    """Counted at full size, where there are no numbers."""
    with torch.device("meta"):
        blocks = [FluxTransformerBlock(3072, 24, 128), FluxSingleTransformerBlock(3072, 24, 128)]
    layers = [FLUX1.modulation_layers(block) for block in blocks]
    weights = [sum(p.numel() for layer in each for p in layer.parameters()) for each in layers]
    whole = [sum(p.numel() for p in block.parameters()) for block in blocks]
    assert (19 * weights[0] + 38 * weights[1]) / (19 * whole[0] + 38 * whole[1]) == pytest.approx(0.273, abs=1e-3)
    outputs = [2 * sum(layer.out_features for layer in each) for each in layers]
    assert 19 * outputs[0] + 38 * outputs[1] == pytest.approx(2 * 2**20, rel=0.01)
