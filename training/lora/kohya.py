"""The layout of kohya's FLUX LoRA files: black-forest-labs' module names, with q, k, v (and the MLP) in one layer.

Where our adapter has a low-rank pair for each of q, k and v, such a file has one for the layer that computes all of
them. A fused layer's change is the parts' changes on top of each other, so n parts of rank r become one pair of rank
n r: the A's stacked, and a B with the parts' B's on its block diagonal. That is exact, and `alpha` is multiplied by n
so that alpha / rank stays what it was. A part that is not adapted is a block of zeros.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import Change
from .value import DOWN, UP, LoRAError, module_names

PREFIX = "lora_unet_"


@dataclass(frozen=True)
class Part:
    """A module's place in the fused layer: which of ``names``, and each one's rows in multiples of the width."""

    layer: str
    names: tuple[str, ...]
    rows: tuple[int, ...]


def _whole(module: str, layer: str) -> Part:
    return Part(layer, (module,), (0,))


def bfl_part(module: str) -> Part:
    """Where ``module``, named as in diffusers, is in black-forest-labs' model. Raises ``LoRAError`` if nowhere."""
    match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", module)
    if match is None:
        if module not in _OUTSIDE:
            raise LoRAError(f"{module} has no name in kohya's format. Save in the diffusers format instead.")
        return _whole(module, _OUTSIDE[module])
    single, index, inner = match.groups()
    block = f"{'single_' if single else ''}transformer_blocks.{index}."
    layer = f"{'single' if single else 'double'}_blocks.{index}."
    for fused, names, rows in _FUSED_SINGLE if single else _FUSED_DOUBLE:
        if inner in names:
            return Part(layer + fused, tuple(block + name for name in names), rows)
    whole = _WHOLE_SINGLE if single else _WHOLE_DOUBLE
    if inner not in whole:
        raise LoRAError(f"{module} has no name in kohya's format. Save in the diffusers format instead.")
    return _whole(module, layer + whole[inner])


def fuse(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Our tensors as a kohya file's: ``lora_unet_<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``.

    Raises ``LoRAError`` for a module that the format cannot name.
    """
    fused: dict[str, Tensor] = {}
    for module in module_names(tensors):
        part = bfl_part(module)
        key = PREFIX + part.layer.replace(".", "_")
        if f"{key}.alpha" in fused:
            continue
        fused[f"{key}.lora_down.weight"], fused[f"{key}.lora_up.weight"] = _fused_pair(part, tensors)
        fused[f"{key}.alpha"] = torch.tensor(alpha * len(part.names), dtype=torch.float32)
    return fused


def _fused_pair(part: Part, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if len(part.names) == 1:
        name = part.names[0]
        up = tensors[name + UP]
        return tensors[name + DOWN], _swap_halves(up) if name in _SWAPPED else up
    example = next(tensors[name + DOWN] for name in part.names if name + DOWN in tensors)
    rank, width = example.shape
    no_down = example.new_zeros(rank, width)
    down = torch.cat([tensors.get(name + DOWN, no_down) for name in part.names])
    up = torch.block_diag(
        *[
            tensors.get(name + UP, example.new_zeros(rows * width, rank))
            for name, rows in zip(part.names, part.rows, strict=True)
        ]
    )
    return down, up


def fused_parts(layers: Mapping[str, tuple[int, int]]) -> dict[str, Part]:
    """Each of black-forest-labs' layers, by its name with underscores, from diffusers' ``layers``."""
    parts = (bfl_part(module) for module in layers)
    return {part.layer.replace(".", "_"): part for part in parts}


def split_change(part: Part, change: Change, layers: Mapping[str, tuple[int, int]]) -> dict[str, Change]:
    """What a pair for a fused layer does to each of its parts. ``layers``: (out, in) by diffusers' names.

    Each part takes its rows of ``up``, and all of ``down``; of a pair as ``fuse`` makes it, whose ``up`` has blocks on
    its diagonal and zeros beside them, each part takes its own block and thus its own rank.
    """
    if len(part.names) == 1:
        (module,) = part.names
        swapped = module in _SWAPPED
        return {module: dataclasses.replace(change, up=_swap_halves(change.up)) if swapped else change}
    ups = dict(zip(part.names, change.up.split([layers[name][0] for name in part.names]), strict=True))
    rank, rest = divmod(change.rank, len(part.names))
    columns = {name: slice(place * rank, (place + 1) * rank) for place, name in enumerate(part.names)}
    inside = sum(int(ups[name][:, columns[name]].count_nonzero()) for name in part.names)
    if rest or not inside or inside != int(change.up.count_nonzero()):
        return {name: dataclasses.replace(change, up=up) for name, up in ups.items()}
    return {name: Change(change.down[columns[name]], up[:, columns[name]], change.scale) for name, up in ups.items()}


def split(fused: Mapping[str, Tensor], modules: list[str], rank: int) -> dict[str, Tensor]:
    """The inverse of ``fuse``, bit for bit, for these modules and this rank.

    Raises ``LoRAError`` where a tensor is missing or not of the shape that ``fuse`` gives it.
    """
    tensors = {}
    for module in modules:
        part = bfl_part(module)
        key = PREFIX + part.layer.replace(".", "_")
        down, up = fused.get(f"{key}.lora_down.weight"), fused.get(f"{key}.lora_up.weight")
        if down is None or up is None or (down.ndim, up.ndim) != (2, 2) or up.shape[1] != down.shape[0]:
            raise LoRAError(f"{key} has no pair of matrices that fit each other, as its metadata says.")
        if down.shape[0] != rank * len(part.names):
            raise LoRAError(f"{key} does not hold {len(part.names)} parts of rank {rank}, as its metadata says.")
        place = part.names.index(module)
        columns = slice(place * rank, (place + 1) * rank)
        if len(part.names) > 1:
            width = down.shape[1]
            first = sum(part.rows[:place]) * width
            up = up[first : first + part.rows[place] * width, columns]
        elif module in _SWAPPED:
            up = _swap_halves(up)
        tensors[module + DOWN], tensors[module + UP] = down[columns].clone(), up.clone()
    return tensors


def _swap_halves(up: Tensor) -> Tensor:
    # diffusers' last modulation gives (scale, shift), black-forest-labs' gives (shift, scale).
    return torch.cat(up.chunk(2)[::-1])


_FUSED_DOUBLE = (
    ("img_attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v"), (1, 1, 1)),
    ("txt_attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), (1, 1, 1)),
)
_FUSED_SINGLE = (("linear1", ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), (1, 1, 1, 4)),)
_WHOLE_DOUBLE = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
}
_WHOLE_SINGLE = {"proj_out": "linear2", "norm.linear": "modulation.lin"}
_OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_SWAPPED = ("norm_out.linear",)
