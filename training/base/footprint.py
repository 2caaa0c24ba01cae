"""How many bytes a computation needs on a card, counted without one: on the meta device, where nothing is computed."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .spread import spread

# Most of what a transformer calls. On the meta device torch works their shapes out in Python, which takes its time.
_POINTWISE = {
    torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor, torch.ops.aten.div.Tensor, torch.ops.aten.clamp_min.default,
    torch.ops.aten.abs.default, torch.ops.aten.gelu.default, torch.ops.aten.gelu_backward.default,
    torch.ops.aten.pow.Tensor_Scalar,
}  # fmt: skip


def _pointwise(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """What ``func`` makes of tensors of floating point on the meta device; ``None`` of others."""
    tensors = [each for each in args if isinstance(each, Tensor)]
    if not all(each.is_meta and each.is_floating_point() for each in tensors):
        return None
    kind = tensors[0].dtype if len(tensors) == 1 else torch.result_type(*tensors)
    return torch.empty(torch.broadcast_shapes(*(each.shape for each in tensors)), dtype=kind, device="meta")


class Bytes(TorchDispatchMode):
    """Counts the bytes of all tensors that have been made within it and are alive, without an allocator's losses."""

    def __init__(self, *modules: nn.Module) -> None:
        """Weights of ``modules`` do not count, nor do gradients that they have already, nor views of either."""
        super().__init__()
        self.alive = self.peak = 0
        weights = [*itertools.chain(*(itertools.chain(module.parameters(), module.buffers()) for module in modules))]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self._known = {each.untyped_storage()._cdata for each in (*weights, *gradients)}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = _pointwise(func, args) if func in _POINTWISE and not kwargs else None
        result = func(*args, **(kwargs or {})) if result is None else result
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


class _Flash(torch.autograd.Function):
    """Attention that keeps its inputs, its output and a sum for each query, as the kernels of a GPU do."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class FlashAttention(TorchFunctionMode):
    """Within it attention is counted as a card's kernels do it: on the meta device torch would hold all its weights."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return _Flash.apply(given["query"], given["key"], given["value"])


class Counted(NamedTuple):
    """Bytes on the card. ``blocks``: frozen weights of each block, in the order in which they run.

    ``outside``: those outside the blocks; ``trained``: networks that are trained, with gradients and moments;
    ``working``: the most that is kept besides.
    """

    blocks: tuple[int, ...]
    outside: int
    trained: int
    working: int

    def elsewhere(self, share: float) -> int:
        """Of the blocks that ``streaming`` leaves in the computer's memory."""
        return sum(self._streamed(share))

    def with_streamed(self, share: float, slots: int = 2) -> int:
        """The peak where this share of the blocks is streamed through so many slots."""
        streamed = self._streamed(share)
        ring = min(slots, len(streamed)) * max(streamed, default=0)
        return sum(self.blocks) - sum(streamed) + ring + self.outside + self.trained + self.working

    def _streamed(self, share: float) -> list[int]:
        return [self.blocks[index] for index in spread(len(self.blocks), share)]


def told(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.2f} MiB"


def weight_bytes(module: nn.Module) -> int:
    """Of parameters and buffers."""
    return sum(weight.nbytes for weight in module.state_dict(keep_vars=True).values())
