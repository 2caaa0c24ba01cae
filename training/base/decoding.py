"""Decoding of a layer's weight from the tensors in which a file holds it, on their device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .int8 import Int8Weight

NVFP4_BLOCK, MXFP8_BLOCK = 16, 32
TILE_ROWS, TILE_COLUMNS = 128, 4

# What the 4 bits of an E2M1 number stand for; the highest is the sign (OCP Microscaling Formats, 5.3.3).
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

Shape = tuple[int, ...]
Settings = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


def rounded_up(number: int, step: int) -> int:
    """The least multiple of ``step`` that is no less than ``number``."""
    return -(-number // step) * step


def plain(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor:
    """The tensor itself; in bf16, which holds every value of theirs, for the two types of 8 bits."""
    weight = tensors["weight"]
    return weight.to(torch.bfloat16) if weight.dtype.itemsize == 1 else weight


def scaled(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor:
    """fp8 times its scale, in fp32: one for all, one a row, or one a block of a row's inputs (out, blocks, 1).

    musubi-tuner writes blocks (``quantize_weight`` in its ``fp8_optimization_utils.py``), since some version with one
    more factor for all of them.
    """
    weight, scale = tensors["weight"].to(torch.float32, copy=True), tensors["weight_scale"].float()
    if "weight_scale_tensor" in tensors:
        scale = scale * tensors["weight_scale_tensor"].float()
    if scale.ndim == 3:
        return weight.unflatten(1, (scale.shape[1], -1)).mul_(scale).flatten(1)
    return weight.mul_(scale.reshape(-1, 1))


def int8(tensors: Tensors, shape: Shape, settings: Settings) -> Int8Weight:
    """As it lies; a scale for all is spread over the rows."""
    scales = tensors["weight_scale"].float().flatten().expand(shape[0]).contiguous()
    group = settings["convrot_groupsize"] if settings["convrot"] else 0
    return Int8Weight(tensors["weight"], scales, group)


def int4(tensors: Tensors, shape: Shape, settings: Settings) -> Int8Weight:
    """Signed nibbles, the lower one first, with a scale a row, rotated: what they hold, int8 holds, too."""
    packed = tensors["weight"].view(torch.int8)
    values = torch.stack([(packed << 4) >> 4, packed >> 4], -1).flatten(1)
    return Int8Weight(values, tensors["weight_scale"].float().flatten(), settings["convrot_groupsize"])


def nvfp4(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor:
    """Pairs of E2M1 numbers, the higher nibble first, with an fp8 scale a block and one for all, in fp32."""
    weight = tensors["weight"]
    table = torch.tensor([*_E2M1, *(-value for value in _E2M1)], device=weight.device)
    values = table[torch.stack([weight >> 4, weight & 15], -1).flatten(1).int()]
    blocks = _untiled(tensors["weight_scale"].view(torch.float8_e4m3fn), shape[0], shape[1] // NVFP4_BLOCK).float()
    scales = tensors["weight_scale_2"].float().reshape(1, 1) * blocks
    decoded = (values.unflatten(1, (-1, NVFP4_BLOCK)) * scales[..., None]).flatten(1)
    # Where the inputs are multiplied by something before the layer, its columns may be instead.
    return decoded * tensors["pre_quant_scale"].float() if "pre_quant_scale" in tensors else decoded


def mxfp8(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor:
    """fp8 with a power of 2 for each block, in fp32."""
    exponents = _untiled(tensors["weight_scale"].view(torch.uint8), shape[0], shape[1] // MXFP8_BLOCK).int() - 127
    blocks = tensors["weight"].float().unflatten(1, (-1, MXFP8_BLOCK))
    return torch.ldexp(blocks, exponents[..., None]).flatten(1)


def bitsandbytes(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor:
    """Places in a table of 16 values, the higher nibble first, with the largest value of each block, in fp32.

    The largest values may themselves be places in a table, with the largest of each block of blocks, and an offset.
    """
    largest = tensors["weight.absmax"]
    if settings["nested"]:
        codes = tensors["weight.nested_quant_map"].float()[largest.int()]
        outer = tensors["weight.nested_absmax"].float().repeat_interleave(settings["nested_blocksize"])
        largest = codes * outer[: len(codes)] + settings["nested_offset"]
    packed = tensors["weight"].flatten()
    values = tensors["weight.quant_map"].float()[torch.stack([packed >> 4, packed & 15], -1).flatten().int()]
    return (values.unflatten(0, (-1, settings["blocksize"])) * largest.float()[:, None]).reshape(shape)


def _untiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Scales of blocks (rows, columns) from cuBLAS's tiles of 128 x 4, in which rows 32 apart lie side by side."""
    height, width = rounded_up(rows, TILE_ROWS), rounded_up(columns, TILE_COLUMNS)
    tiles = scales.reshape(height // TILE_ROWS, width // TILE_COLUMNS, 32, TILE_ROWS // 32, TILE_COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(height, width)[:rows, :columns]
