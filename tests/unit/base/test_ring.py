"""Modules that pass through slots: the bytes are theirs, copies are those needed, wrong gradients are refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fluxduel.tests.device import DEVICE
from fluxduel.training.base.flat_tensors import ALIGNMENT, FlatTensors
from fluxduel.training.base.page_lock import PageLock
from fluxduel.training.base.ring import Ring

# What of a block is not copied: what is trained, and what has no bytes.
STAYS = ("trained", "nothing")
CHANGED = "modified by an inplace operation"


class Saving(torch.autograd.Function):
    """A product whose weight is kept as a layer of one's own has to keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return x @ (weight.float() * scale[:, None]).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return grad @ (weight.float() * scale[:, None]), None, None


class Block(nn.Module):
    """Weights of every type that a block may hold, one of them shared, one trained, one without a size."""

    def __init__(self, seed: int, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def frozen(weight: Tensor) -> nn.Parameter:
            return nn.Parameter(weight, requires_grad=False)

        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width, dtype=torch.bfloat16)
        for layer in (self.first, self.second):
            for parameter in layer.requires_grad_(False).parameters():
                parameter.normal_(std=0.5, generator=generator)
        self.third = nn.Linear(width, width, bias=False)
        self.third.weight = self.first.weight
        self.int8 = frozen(torch.randint(-127, 128, (width, width), generator=generator).to(torch.int8))
        self.register_buffer("scale", torch.rand(width, generator=generator) / 127)
        self.register_buffer("on", torch.tensor(True), persistent=False)
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("absent", None)
        self.trained = nn.Parameter(torch.rand(width, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        assert self.on.item()
        x = x + torch.tanh(self.first(x)) * self.trained
        x = x + self.second(x.to(torch.bfloat16)).float()
        return self.third(x) + Saving.apply(x, self.int8, self.scale)


def blocks(count: int) -> list[Block]:
    return [Block(seed).to(DEVICE) for seed in range(count)]


def passed(modules: Sequence[nn.Module], x: Tensor, recompute: bool, fetch: Callable[[int], None]) -> Tensor:
    """``x`` through all of them, each of which is fetched whenever it computes."""
    for number, module in enumerate(modules):

        def run(x: Tensor, number: int = number, module: nn.Module = module) -> Tensor:
            fetch(number)
            return module(x)

        x = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
    return x


def given(count: int = 3) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(9)).to(DEVICE).requires_grad_()


def gradients(modules: Sequence[Block], x: Tensor) -> list[Tensor]:
    return [x.grad, *(module.trained.grad for module in modules)]


def settled() -> None:
    """Wait for the copies that are on their way: before what was not fetched is looked at."""
    if torch.device(DEVICE).type == "cuda":
        torch.cuda.synchronize()


def test_every_tensor_keeps_its_bits_type_and_kind() -> None:
    block, same = Block(3), Block(3)
    trained, shared = block.trained, block.first.weight
    flat = FlatTensors(block)
    copy = flat.master.clone()
    for buffer, other in ((flat.master, copy), (copy, flat.master)):
        flat.place(buffer)
        assert flat.lie_in(buffer) and not flat.lie_in(other)
        for (name, found), (_, wanted) in zip(
            [*block.named_parameters(), *block.named_buffers()],
            [*same.named_parameters(), *same.named_buffers()],
            strict=True,
        ):
            assert torch.equal(found, wanted) and found.dtype == wanted.dtype, name
            assert type(found) is type(wanted) and found.requires_grad == wanted.requires_grad, name
            offset = found.data_ptr() - buffer.data_ptr()
            inside = 0 <= offset < len(buffer)
            assert (inside and offset % ALIGNMENT == 0) if name not in STAYS else not inside, name
    assert block.trained is trained and block.absent is None
    assert block.third.weight.data_ptr() == block.first.weight.data_ptr() != shared.data_ptr()
    assert block.state_dict().keys() == same.state_dict().keys()
    # What is shared is held once, and only the padding comes on top.
    kept = [t for name, t in [*same.named_parameters(), *same.named_buffers()] if name not in STAYS]
    tensors = {t.data_ptr(): t.nbytes for t in kept}
    assert sum(tensors.values()) <= len(flat.master) <= sum(tensors.values()) + ALIGNMENT * len(tensors)


def test_what_lies_last_can_be_left_out() -> None:
    block, same = Block(3), Block(3)
    flat = FlatTensors(block, last=[block.second])
    away = {"second.weight", "second.bias"}
    starts = {name: t.data_ptr() - flat.master.data_ptr() for name, t in block.state_dict().items()}
    assert all((starts[name] >= flat.front) == (name in away) for name in starts if name not in STAYS)
    assert 0 < flat.front < len(flat.master) and flat.front % ALIGNMENT == 0
    assert flat.lie_in(flat.master) and not flat.lie_in(flat.master, whole=False)
    held = dict(block.named_parameters())
    with pytest.raises(ZeroDivisionError), flat.without_last():
        assert flat.lie_in(flat.master, whole=False) and not flat.lie_in(flat.master)
        assert dict(block.named_parameters()).keys() == held.keys() - away
        with pytest.raises(TypeError):
            block.second(given().bfloat16())
        raise ZeroDivisionError
    assert all(one is held[name] for name, one in block.named_parameters())
    assert all(torch.equal(t, same.state_dict()[name]) for name, t in block.state_dict().items())


def test_a_tensor_that_others_need_is_not_left_out() -> None:
    block = Block(3)
    flat = FlatTensors(block, last=[block.third])
    assert flat.front == len(flat.master)
    with flat.without_last():
        assert block.third.weight is block.first.weight is not None


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_gradients_are_those_of_modules_that_stay(slots: int) -> None:
    """Two graphs at once, the later one of which is run through first, as stage 2 does."""
    found = []
    for streamed in (False, True):
        modules, x = blocks(5), given()
        fetch = Ring(modules, torch.device(DEVICE), slots).fetch if streamed else lambda _: None
        whole = passed(modules, x, True, fetch)
        part = passed(modules[:3], x * 2, True, fetch)
        (inner,) = torch.autograd.grad(part.sum(), x)
        whole.backward(torch.ones_like(whole))
        found.append([whole, part, inner, *gradients(modules, x)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def emptied(ring: Ring) -> Ring:
    """Memory that another ring of the same modules has left may hold what looks as if it had arrived."""
    for slot in ring._slots:
        slot.buffer.zero_()
    return ring


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_module_is_there_whatever_came_before(slots: int) -> None:
    """Any order of fetches: what is asked for is there, and nothing is copied that lies there already."""
    modules, same = blocks(6), blocks(6)
    ring = emptied(Ring(modules, torch.device(DEVICE), slots))
    assert ring.device_bytes == slots * ring.host_bytes / 6 and ring.copies == 0
    x, order = given().detach(), random.Random(slots)
    slot_of: dict[int, int] = {}
    for _ in range(200):
        number = order.randrange(6)
        before, lay_there = ring.copies, slot_of.get(number % slots) == number
        ring.fetch(number)
        assert torch.equal(modules[number](x), same[number](x))
        ahead = [other for other in (number - 1, number + 1) if slots > 1 and 0 <= other < 6]
        settled()
        arrived = [other for other in ahead if torch.equal(modules[other].int8, same[other].int8)]
        assert len(arrived) >= min(1, len(ahead))
        news = [other for other in arrived if slot_of.get(other % slots) != other]
        assert ring.copies - before == (not lay_there) + len(news) and len(news) <= 1
        slot_of |= {other % slots: other for other in (number, *news)}


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_what_was_left_out_is_brought_before_it_is_there_again(slots: int) -> None:
    """Any order of whole fetches and others: each has its bytes, and none is brought twice."""
    modules, same = blocks(6), blocks(6)
    ring = emptied(Ring(modules, torch.device(DEVICE), slots, last=[[block.second] for block in modules]))
    front, whole_size = ring._flat[0].front, len(ring._flat[0].master)
    x, order = given().detach(), random.Random(slots)
    lies: dict[int, tuple[int, int]] = {}
    left_out = 0

    def brought(number: int, size: int) -> int:
        holds, filled = lies.get(number % slots, (number, 0))
        there = filled if holds == number else 0
        lies[number % slots] = (number, max(there, size))
        return max(0, size - there)

    at, direction = 0, 1
    for _ in range(300):
        number, whole = order.randrange(6), order.random() < 0.5
        before = ring.copied
        with nullcontext() if whole else ring.without_last(number):
            ring.fetch(number, whole)
            wanted = dict(same[number].named_parameters())
            for name, found in modules[number].named_parameters():
                assert torch.equal(found, wanted[name]), name
            if whole:
                assert torch.equal(modules[number](x), same[number](x))
            else:
                assert modules[number].second.weight is None
        direction = direction if number == at else 1 if number > at else -1
        at = number
        ahead = number + direction if 0 <= number + direction < 6 else number - direction
        size = whole_size if whole else front
        assert ring.copied - before == brought(number, size) + (brought(ahead, size) if slots > 1 else 0)
        left_out += not whole
    assert 100 < left_out < 200


def test_leaving_out_what_could_still_be_read_is_refused() -> None:
    modules = blocks(2)
    ring = Ring(modules, torch.device(DEVICE), 1, last=[[block.second] for block in modules])
    with pytest.raises(RuntimeError, match="moved or replaced"):
        ring.fetch(0, whole=False)
    with ring.without_last(0), pytest.raises(RuntimeError, match="moved or replaced"):
        ring.fetch(0)


def test_the_next_one_is_brought_in_the_direction_of_the_last_move() -> None:
    modules, same = blocks(6), blocks(6)
    ring = emptied(Ring(modules, torch.device(DEVICE), 2))

    def there() -> set[int]:
        settled()
        return {i for i in range(6) if torch.equal(modules[i].int8, same[i].int8)}

    seen = []
    for number in (0, 1, 2, 3, 3, 2, 1, 0, 5, 5, 4, 0):
        ring.fetch(number)
        seen.append(there())
    # Up, turned at 3 with 4 on its way, down, and at either end the one that can follow.
    assert seen == [
        {0, 1}, {1, 2}, {2, 3}, {3, 4}, {3, 4}, {1, 2}, {0, 1}, {0, 1}, {4, 5}, {4, 5}, {3, 4}, {0, 1},
    ]  # fmt: skip


def assert_refused(loss: Tensor) -> None:
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_without_recomputation_the_backward_pass_is_refused(slots: int) -> None:
    modules, x = blocks(5), given()
    loss = passed(modules, x, False, Ring(modules, torch.device(DEVICE), slots).fetch).sum()
    assert_refused(loss)


KINDS: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "linear": lambda block, x: block.first(x),
    "linear in bf16": lambda block, x: block.second(x.to(torch.bfloat16)).float(),
    "product": lambda block, x: x * block.scale,
    "norm": lambda block, x: functional.rms_norm(x, (8,), block.first.bias),
    "function of one's own": lambda block, x: Saving.apply(x, block.int8, block.scale),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_notices_that_its_slot_was_overwritten(kind: str) -> None:
    modules, x = blocks(2), given()
    ring = Ring(modules, torch.device(DEVICE), 1)
    ring.fetch(0)
    loss = KINDS[kind](modules[0], x).sum()
    ring.fetch(1)
    assert_refused(loss)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overwritten", [False, True])
def test_a_module_that_is_moved_to_another_slot_is_right_or_refused(kind: str, overwritten: bool) -> None:
    """What the backward pass needs is what lay in the first slot, wherever the module lies by then."""
    block, x = Block(0), given()
    block.trained.data = block.trained.data.to(DEVICE)
    flat = FlatTensors(block)
    first, second = (torch.empty(len(flat.master), dtype=torch.uint8, device=DEVICE) for _ in range(2))
    flat.place(first)
    first.copy_(flat.master)
    loss = KINDS[kind](block, x).sum()
    flat.place(second)
    second.zero_()
    if overwritten:
        first.zero_()
        assert_refused(loss)
        return
    loss.backward()
    moved, same = x.grad.clone(), Block(0).to(DEVICE)
    x.grad = None
    KINDS[kind](same, x).sum().backward()
    assert torch.equal(moved, x.grad)


def test_a_module_that_was_taken_out_of_its_slot_is_refused() -> None:
    modules = blocks(3)
    ring = Ring(modules, torch.device(DEVICE), 2)
    ring.fetch(0)
    modules[1].to(torch.float64)
    ring.fetch(2)
    with pytest.raises(RuntimeError, match="Release the streamer"):
        ring.fetch(1)


def test_released_modules_have_their_weights_in_ordinary_memory() -> None:
    modules, same = blocks(3), [Block(seed) for seed in range(3)]
    ring = Ring(modules, torch.device(DEVICE), 2)
    for number in (0, 1, 2, 1):
        ring.fetch(number)
    assert ring.device_bytes > 0
    ring.release()
    assert ring.device_bytes == ring.host_bytes == ring.locked_bytes == 0
    for module, wanted in zip(modules, same, strict=True):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor.cpu(), wanted.state_dict()[name]), name
            assert name in STAYS or tensor.device.type == "cpu"


ON_CUDA = torch.device(DEVICE).type == "cuda"


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA copies beside the computation")
def test_no_copy_overtakes_the_computation() -> None:
    """Weights of 16 MiB, each with enough to compute that the copies of others run meanwhile."""

    def wide() -> list[nn.Linear]:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return [nn.Linear(2048, 2048).requires_grad_(False).to(DEVICE) for _ in range(6)]

    def walked(modules: list[nn.Linear], fetch: Callable[[int], None]) -> list[Tensor]:
        x = torch.randn(512, 2048, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        seen = []
        for number in (0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, 3, 0, 1, 5) * 4:
            fetch(number)
            for _ in range(20):
                x = torch.tanh(modules[number](x))
            seen.append(x)
        return seen

    wanted = walked(wide(), lambda _: None)
    for slots in (1, 2, 3):
        modules = wide()
        ring = Ring(modules, torch.device(DEVICE), slots)
        assert ring.locked_bytes == ring.host_bytes
        assert all(torch.equal(one, other) for one, other in zip(walked(modules, ring.fetch), wanted, strict=True))
        ring.release()


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA locks memory")
def test_memory_is_locked_until_it_is_released_or_gone() -> None:
    memory, device = torch.zeros(2**24, dtype=torch.uint8), torch.device(DEVICE)
    lock = PageLock(memory, device)
    with pytest.raises(OSError, match="16 MiB"):
        PageLock(memory, device)
    # The refusal is not left behind for whoever computes next.
    assert torch.ones(3, device=DEVICE).sum().item() == 3
    lock.release()
    lock = PageLock(memory, device)
    del lock
    PageLock(memory, device).release()


def test_no_modules_take_nothing() -> None:
    ring = Ring([], torch.device(DEVICE), 2)
    assert ring.device_bytes == ring.host_bytes == ring.copies == 0
    ring.release()
