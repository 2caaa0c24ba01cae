"""The frozen base split over the ranks, for cards that cannot hold it: torch's own FSDP, block by block."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..base.base_model import FluxBase
from .ranks import Ranks


def shard_base(base: FluxBase, ranks: Ranks, device: torch.device) -> None:
    """Keep on each rank's ``device`` a part of every block's frozen weights; a block is whole only while it computes.

    The adapter, which has to be attached already, and what lies outside the blocks stay whole on every rank. ``base``
    may lie in the CPU's memory: a whole one then never has to fit the device.
    """
    mesh = init_device_mesh(device.type, (ranks.count,))
    for block in base.blocks:
        trained = {parameter for parameter in block.parameters() if parameter.requires_grad}
        # Each block is used on its own, also without the transformer around it, so each gives its weights back itself.
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    _move_whole(base.transformer, device)
    base.device = device


def _move_whole(module: nn.Module, device: torch.device) -> None:
    """All weights and buffers that are no shard."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not isinstance(parameter.data, DTensor):
                parameter.data = parameter.data.to(device)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
