"""A module's frozen tensors as one flat buffer of bytes: to move them is one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

# What CUDA's allocator aligns to, so that a tensor lies in a buffer as it would on its own.
ALIGNMENT = 512


class _Entry(NamedTuple):
    module: nn.Module
    name: str
    is_parameter: bool
    start: int
    dtype: torch.dtype
    shape: torch.Size

    def view(self, buffer: Tensor) -> Tensor:
        size = self.shape.numel() * self.dtype.itemsize
        return buffer[self.start : self.start + size].view(self.dtype).view(self.shape)


class FlatTensors:
    """The parameters and buffers of a module that are not trained, of any types, packed into ``master`` on the CPU.

    What is trained, such as an adapter's weights, stays as it is. ``master``: (size,) bytes. ``front``: how many of
    them come before the first one of the parts that lie ``last``.
    """

    def __init__(self, module: nn.Module, last: Sequence[nn.Module] = ()) -> None:
        """Copy the tensors into ``master``, and let the module have them there: the memory they had is given back."""
        self._entries: list[_Entry] = []
        tensors, starts, end, self.front = [], {}, 0, 0
        for part in (*(part for part in module.modules() if part not in last), *last):
            named = [(True, *each) for each in part.named_parameters(recurse=False, remove_duplicate=False)]
            named += [(False, *each) for each in part.named_buffers(recurse=False, remove_duplicate=False)]
            for is_parameter, name, tensor in named:
                # An empty tensor has no address by which it would be found to have moved.
                if tensor.requires_grad or not tensor.numel():
                    continue
                # A tensor that several parts share has one place.
                if id(tensor) not in starts:
                    starts[id(tensor)] = end
                    end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
                self._entries.append(
                    _Entry(part, name, is_parameter, starts[id(tensor)], tensor.dtype, tensor.shape)
                )
                tensors.append(tensor)
            if part not in last:
                self.front = end
        # On the meta device there is nothing to keep: sizes are counted, as of a base that is only rehearsed.
        device = "meta" if tensors and tensors[0].is_meta else "cpu"
        self.master = torch.empty(end, dtype=torch.uint8, device=device)
        for entry, tensor in zip(self._entries, tensors, strict=True):
            entry.view(self.master).copy_(tensor.detach())
        self.place(self.master)

    def place(self, buffer: Tensor) -> None:
        """Let the module's tensors be views in ``buffer``, bytes of ``master``'s size or more on any device.

        They share its version counter: when it is overwritten, a backward pass that still needs what it held is refused
        by autograd. Writing to ``parameter.data`` instead would hide that, and the gradient would be wrong in silence.
        """
        placed: dict[tuple[int, bool], Tensor] = {}
        for entry in self._entries:
            key = (entry.start, entry.is_parameter)
            if key not in placed:
                view = entry.view(buffer)
                placed[key] = nn.Parameter(view, requires_grad=False) if entry.is_parameter else view
            setattr(entry.module, entry.name, placed[key])

    @contextmanager
    def without_last(self) -> Iterator[None]:
        """Within it the module does not have its tensors behind ``front``: whatever computes with them fails."""
        away = [(entry, getattr(entry.module, entry.name)) for entry in self._entries if entry.start >= self.front]
        for entry, _ in away:
            setattr(entry.module, entry.name, None)
        try:
            yield
        finally:
            for entry, tensor in away:
                setattr(entry.module, entry.name, tensor)

    def lie_in(self, buffer: Tensor, whole: bool = True) -> bool:
        """Whether the module's tensors still are where ``place`` has put them.

        Not ``whole``: those up to ``front``, and the module does not have the others.
        """
        storage = buffer.untyped_storage().data_ptr()

        def there(entry: _Entry) -> bool:
            tensor = getattr(entry.module, entry.name)
            if tensor is None or not (whole or entry.start < self.front):
                return tensor is None and not whole
            return (
                tensor.untyped_storage().data_ptr() == storage
                and tensor.storage_offset() * tensor.itemsize == entry.start
            )

        return all(there(entry) for entry in self._entries)
