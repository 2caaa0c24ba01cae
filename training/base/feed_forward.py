"""A block's feed-forward part without its hidden layers: wide, cheap, and computed anew in the backward pass."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .families.family import Hidden


def narrow(
    block: nn.Module, *args: Any, parts: Sequence[Hidden], computing: Callable[[], AbstractContextManager]
) -> Any:
    """``block(*args)``, keeping for the backward pass all but the hidden layers of its feed-forward parts.

    Those are three or four times as wide as the block, and kept several times, before and after their activation; to
    have them again takes one product of a block's three, with queries, keys and values where these are of the same
    product. Whatever else attention computes is kept. ``parts``: of ``block``, adapted or not.
    ``computing``: the state in which they are computed anew.

    The frozen weights must still be there in the backward pass: what is kept is not watched for being overwritten.
    """
    with ExitStack() as stack:
        hidden = [_Hidden(part, computing, stack) for part in parts]

        def pack(tensor: Tensor) -> Tensor | _Again:
            storage = tensor.untyped_storage()
            for part in hidden:
                place = part.place(storage)
                if place is not None:
                    part.leave_out(place)
                    return _Again(part, place, tensor.size(), tensor.stride(), tensor.storage_offset())
            return tensor

        stack.enter_context(saved_tensors_hooks(pack, _unpack))
        return block(*args)


class _Hidden:
    """The hidden layer of one part in one call: its tensors' places are 0 as it is widened, then those that are made of
    it, and the last as it is joined."""

    def __init__(self, part: Hidden, computing: Callable[[], AbstractContextManager], stack: ExitStack) -> None:
        self._part, self._computing = part, computing
        self._inputs: dict[str, Tensor] = {}
        # Weak, so that a tensor that is gone is not mistaken for the next one in its memory.
        self._storages: list[weakref.ref] = []
        self._joint: weakref.ref | None = None
        # How often each place is asked for in one way back, and in this one yet.
        self._wanted: Counter[int] = Counter()
        self._left: Counter[int] = Counter()
        self._again: dict[int, Tensor] = {}
        stack.enter_context(part.widen.register_forward_hook(self._widened))
        for module, _ in part.made:
            stack.enter_context(module.register_forward_hook(self._made))
        if part.beside is not None:
            stack.enter_context(part.beside.register_forward_hook(self._attended))
        if part.narrow is not None:
            stack.enter_context(part.narrow.register_forward_pre_hook(self._joined))

    def place(self, storage: torch.UntypedStorage) -> int | None:
        """Which of the layer's tensors lies there."""
        return next((place for place, each in enumerate(self._storages) if each() is storage), None)

    def leave_out(self, place: int) -> None:
        """It is going to be asked for once more than is known yet."""
        self._wanted[place] += 1
        if place > len(self._part.made) and "beside" not in self._inputs:
            both = self._joint()
            self._inputs["beside"] = both[..., : both.shape[-1] - self._width].clone()

    def take(self, place: int) -> Tensor:
        """One of the tensors, computed anew together with the others, which wait for their turn."""
        if place not in self._again:
            with torch.no_grad(), self._computing():
                wide = self._part.widen(self._inputs["x"])
                made = [wide, *(of(wide) for _, of in self._part.made)]
                if "beside" in self._inputs:
                    made.append(torch.cat([self._inputs["beside"], made[-1]], dim=-1))
            self._again = {each: made[each] for each in self._wanted}
            self._left = self._wanted.copy()
        self._left[place] -= 1
        return self._again[place] if self._left[place] else self._again.pop(place)

    def _widened(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        self._inputs["x"] = given[0].detach()
        self._storages.append(weakref.ref(output.untyped_storage()))

    def _made(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        self._storages.append(weakref.ref(output.untyped_storage()))
        self._width = output.shape[-1]

    def _attended(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        self._inputs["beside"] = output.detach()

    def _joined(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._storages.append(weakref.ref(given[0].untyped_storage()))
        self._joint = weakref.ref(given[0])


class _Again(NamedTuple):
    """A saved tensor that is not there: a view of what ``part`` makes at ``place``."""

    part: _Hidden
    place: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _unpack(packed: Tensor | _Again) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    return packed.part.take(packed.place).as_strided(packed.size, packed.stride, packed.offset)

