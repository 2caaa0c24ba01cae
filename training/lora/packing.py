"""A LoRA's pairs of matrices in the layers of a file, and back.

Where diffusers' transformer has a layer each for q, k and v, a file may have one that computes all of them. A fused
layer's change is its parts' changes on top of each other, so n parts of rank r become one pair of rank n r: the A's
stacked, and a B with the parts' B's on its block diagonal. That is exact, and ``alpha`` is multiplied by n so that
alpha / rank stays what it was. A part that is not adapted is a block of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..base.families import Family
from ..base.families.lora_layouts import LoRALayout
from ..base.families.modules import Module, Part
from .low_rank import Change
from .value import DOWN, UP, LoRAError, module_names


def file_layers(family: Family, config: Mapping[str, Any], naming: str) -> dict[str, Module]:
    """The layers that a file of a transformer with this configuration has in this naming, by name."""
    return {module.name: module for module in family.modules(config, naming) if not module.is_norm}


def pack(
    layout: LoRALayout, layers: Mapping[str, Module], tensors: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Our tensors by a file's keys; ``layers``: of ``file_layers``. Alpha is there where the layout has it.

    Raises ``LoRAError`` for a module that is in none of the layers.
    """
    inside = {part.name: layer for layer in layers.values() for part in layer.parts}
    packed: dict[str, Tensor] = {}
    for module in module_names(tensors):
        layer = inside.get(module)
        if layer is None:
            raise LoRAError(f"{module} has no name in files of the {layout.name} layout. Save in another format.")
        key = layout.key(layer.name)
        if key + layout.down in packed:
            continue
        packed[key + layout.down], packed[key + layout.up] = _fused(layer, tensors)
        if layout.alpha:
            packed[f"{key}.alpha"] = torch.tensor(alpha * len(layer.parts), dtype=torch.float32)
    return packed


def unpack(
    layout: LoRALayout, layers: Mapping[str, Module], packed: Mapping[str, Tensor], modules: Iterable[str], rank: int
) -> dict[str, Tensor]:
    """The inverse of ``pack``, bit for bit, for these modules and this rank.

    Raises ``LoRAError`` where a tensor is missing or not of the shape that ``pack`` gives it.
    """
    places = {part.name: (layer, place) for layer in layers.values() for place, part in enumerate(layer.parts)}
    tensors = {}
    for module in modules:
        layer, place = places[module]
        key = layout.key(layer.name)
        down, up = packed.get(key + layout.down), packed.get(key + layout.up)
        columns = rank * len(layer.parts)
        shapes = (columns, layer.shape[1]), (layer.shape[0], columns)
        if down is None or up is None or (down.shape, up.shape) != shapes:
            raise LoRAError(
                f"{key} has no pair of matrices of {len(layer.parts)} x rank {rank} that fit the base, as its metadata "
                "says."
            )
        own = slice(place * rank, (place + 1) * rank)
        tensors[module + DOWN], tensors[module + UP] = down[own].clone(), _rows(layer.parts[place], up[:, own])
    return tensors


def split_change(layer: Module, change: Change) -> dict[str, Change]:
    """What a pair for a layer of a file does to each of the layer's parts.

    Each part takes its rows of ``up``, and all of ``down``; of a pair as ``pack`` makes it, whose ``up`` has blocks on
    its diagonal and zeros beside them, each part takes its own block and thus its own rank.
    """
    ups = {part.name: _rows(part, change.up) for part in layer.parts}
    rank, rest = divmod(change.rank, len(ups))
    columns = {name: slice(place * rank, (place + 1) * rank) for place, name in enumerate(ups)}
    inside = sum(int(up[:, columns[name]].count_nonzero()) for name, up in ups.items())
    if rest or not inside or inside != int(change.up.count_nonzero()):
        return {name: Change(change.down, up, change.scale) for name, up in ups.items()}
    return {name: Change(change.down[columns[name]], up[:, columns[name]], change.scale) for name, up in ups.items()}


def _fused(layer: Module, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    example = next(tensors[part.name + DOWN] for part in layer.parts if part.name + DOWN in tensors)
    if len(layer.parts) == 1 and len(layer.parts[0].rows) == 1:
        return example, tensors[layer.parts[0].name + UP]
    rank = example.shape[0]
    down = torch.cat([tensors.get(part.name + DOWN, torch.zeros_like(example)) for part in layer.parts])
    up = example.new_zeros(layer.shape[0], rank * len(layer.parts))
    for place, part in enumerate(layer.parts):
        if part.name + UP in tensors:
            pieces = tensors[part.name + UP].split([end - start for start, end in part.rows])
            for (start, end), piece in zip(part.rows, pieces, strict=True):
                up[start:end, place * rank : (place + 1) * rank] = piece
    return down, up


def _rows(part: Part, up: Tensor) -> Tensor:
    return torch.cat([up[start:end] for start, end in part.rows])
