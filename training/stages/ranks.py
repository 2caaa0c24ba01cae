"""The processes of one run, each on its own GPU: what they exchange so that all of them stay equal.

Every rank holds all weights and sees its own share of each global batch. Gradients are averaged, numbers that decide
anything are gathered in the order of the ranks, so that each rank decides the same and no rank has to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``count`` processes. One process alone exchanges nothing.

    ``device``: where tensors are exchanged. ``shard``: each holds a part of the frozen base (see ``sharding``).
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")
    shard: bool = False

    @classmethod
    def current(cls, device: torch.device, shard: bool = False) -> Ranks:
        """Those of the process group that is initialised, or one alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        exchanged = device if distributed.get_backend() == "nccl" else torch.device("cpu")
        return cls(distributed.get_rank(), distributed.get_world_size(), exchanged, shard)

    @property
    def first(self) -> bool:
        """True for the one that writes files and reports."""
        return self.rank == 0

    def mean_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace each gradient by its mean over the ranks, in one exchange. One that no rank has stays ``None``."""
        if self.count == 1:
            return
        # A rank whose share gave some parameter no gradient still takes part in its mean.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*(gradient.reshape(-1).to(self.device) for gradient in gradients), present.to(self.device)])
        distributed.all_reduce(flat)
        *means, present = flat.split([*(gradient.numel() for gradient in gradients), len(gradients)])
        for parameter, mean, found in zip(parameters, means, present.tolist(), strict=True):
            parameter.grad = (mean / self.count).view_as(parameter).to(parameter) if found else None

    def gather(self, values: Tensor) -> Tensor:
        """``values`` (n,) of all ranks, one after the other: (count * n,). n is the same everywhere."""
        if self.count == 1:
            return values
        sent = values.to(self.device).contiguous()
        received = [torch.empty_like(sent) for _ in range(self.count)]
        distributed.all_gather(received, sent)
        return torch.cat(received).to(values.device)

    def gather_many(self, *values: Tensor) -> list[Tensor]:
        """``gather`` of each of ``values``, one-dimensional, in a single exchange."""
        if self.count == 1:
            return list(values)
        sizes = [len(value) for value in values]
        together = self.gather(torch.cat([value.double() for value in values]))
        parts = zip(*(share.split(sizes) for share in together.split(sum(sizes))), strict=True)
        return [torch.cat(part).to(value) for part, value in zip(parts, values, strict=True)]

    def gather_objects(self, value: Value) -> list[Value]:
        """``value`` of each rank, in their order. Slower than ``gather``, and of any size."""
        if self.count == 1:
            return [value]
        received: list[Value] = [value] * self.count
        distributed.all_gather_object(received, value)
        return received

    def agreed(self, value: float) -> float:
        """The first rank's ``value``: on unlike devices the last bits may differ, and with them a decision."""
        return value if self.count == 1 else float(self.gather(torch.tensor([value], dtype=torch.float64))[0])

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank."""
        return bool(self.gather(torch.tensor([float(flag)])).any())

    def from_first(self, value: Value) -> Value:
        """The first rank's ``value``, on every rank."""
        if self.count == 1:
            return value
        sent = [value]
        distributed.broadcast_object_list(sent, src=0, device=self.device)
        return sent[0]


ALONE = Ranks()
