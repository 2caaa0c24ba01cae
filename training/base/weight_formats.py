"""The formats in which files hold the weight of a layer: what has to lie beside it, and what may be wrong with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from . import decoding
from .decoding import MXFP8_BLOCK, NVFP4_BLOCK, TILE_COLUMNS, TILE_ROWS, Settings, Shape, Tensors, rounded_up
from .int8 import Int8Weight

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
FLOAT8 = ("F8_E4M3", "F8_E5M2")

_REAL = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Companion:
    """A tensor beside a weight. ``shapes``: those that fit a weight of (out, inputs) with these settings."""

    dtypes: tuple[str, ...]
    shapes: Callable[[Shape, Settings], tuple[Shape, ...]]


@dataclass(frozen=True)
class WeightFormat:
    """How a weight lies in a file.

    ``dtypes``: safetensors' types that it may have. ``decode``: the weight, from its tensors, its shape (out, inputs)
    and settings. ``needed``, ``welcome``: what has to and what may lie beside it, by the end of the key. ``logical``:
    the shape of the weight whose tensor has this one. ``fault``: what is wrong with the settings for such a weight.
    """

    words: str
    dtypes: tuple[str, ...]
    decode: Callable[[Tensors, Shape, Settings], Tensor | Int8Weight]
    needed: Mapping[str, Companion] = field(default_factory=dict)
    welcome: Mapping[str, Companion] = field(default_factory=dict)
    logical: Callable[[Shape, Settings], Shape] = lambda shape, settings: shape
    fault: Callable[[Shape, Settings], str | None] = lambda shape, settings: None


def _one(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((), (1,), (1, 1))


def _one_a_row(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((shape[0],), (shape[0], 1))


def _one_for_all_or_a_row(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return _one(shape, settings) + _one_a_row(shape, settings)


def _one_for_all_or_a_row_or_a_block(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    blocks = tuple((shape[0], count, 1) for count in _divisors(shape[1])) if len(shape) == 2 else ()
    return _one_for_all_or_a_row(shape, settings) + blocks


@functools.cache
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(count for count in range(1, number + 1) if number % count == 0)


def _one_an_input(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((shape[1],), (1, shape[1]))


def _tiles(block: int) -> Callable[[Shape, Settings], tuple[Shape, ...]]:
    def shapes(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        rows, columns = rounded_up(shape[0], TILE_ROWS), rounded_up(shape[1] // block, TILE_COLUMNS)
        return ((rows, columns), (rows * columns,))

    return shapes


def _pairs(shape: Shape, settings: Settings) -> Shape:
    return (*shape[:-1], 2 * shape[-1]) if shape else shape


def _rotation(shape: Shape, settings: Settings) -> str | None:
    if not settings["convrot"]:
        return None
    group = settings["convrot_groupsize"]
    if not isinstance(group, int) or group < 4 or group & (group - 1) or group.bit_length() % 2 == 0:
        return f"is rotated in groups of {group!r}, which is no power of 4"
    return f"is rotated in groups of {group}, but has {shape[1]} inputs" if shape[1] % group else None


def _blocks(size: int) -> Callable[[Shape, Settings], str | None]:
    return lambda shape, settings: f"has blocks of {size}, but {shape[1]} inputs" if shape[1] % size else None


def _table(size: int) -> Callable[[Shape, Settings], tuple[Shape, ...]]:
    return lambda shape, settings: ((size,),)


def _largest(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((prod(shape) // settings["blocksize"],),)


def _outer_largest(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    blocks = prod(shape) // settings["blocksize"]
    return ((rounded_up(blocks, settings["nested_blocksize"]) // settings["nested_blocksize"],),)


def _noted_shape(shape: Shape, settings: Settings) -> Shape:
    return settings["shape"] if 2 * prod(shape) == prod(settings["shape"]) else shape


def _table_fault(shape: Shape, settings: Settings) -> str | None:
    sizes = ["blocksize", "nested_blocksize"] if settings["nested"] else ["blocksize"]
    wrong = next((name for name in sizes if not isinstance(settings.get(name), int) or settings[name] < 1), None)
    if wrong is None and settings["nested"] and not isinstance(settings.get("nested_offset"), int | float):
        wrong = "nested_offset"
    if wrong is not None:
        return f"has {wrong} {settings.get(wrong)!r}"
    size = settings["blocksize"]
    return f"has blocks of {size}, but {prod(shape)} values" if prod(shape) % size else None


PLAIN = WeightFormat("plain", FLOATS, decoding.plain)

_SCALE = {"weight_scale": Companion(_REAL, _one_for_all_or_a_row)}
_FP8_SCALE = {"weight_scale": Companion(_REAL, _one_for_all_or_a_row_or_a_block)}
_FP8_SCALE_OF_BLOCKS = {"weight_scale_tensor": Companion(_REAL, _one)}
# By ComfyUI's names (QUANT_ALGOS in its quant_ops.py).
COMFY_FORMATS: dict[str, WeightFormat] = {
    # Layers that a tool left in 16 bits may have a scale, too.
    "float8_e4m3fn": WeightFormat("fp8 with scales", FLOATS, decoding.scaled, _FP8_SCALE, _FP8_SCALE_OF_BLOCKS),
    "float8_e5m2": WeightFormat("fp8 with scales", FLOATS, decoding.scaled, _FP8_SCALE, _FP8_SCALE_OF_BLOCKS),
    "int8_tensorwise": WeightFormat("int8", ("I8",), decoding.int8, _SCALE, fault=_rotation),
    "convrot_w4a4": WeightFormat(
        "int4", ("I8", "U8"), decoding.int4, {"weight_scale": Companion(_REAL, _one_a_row)}, {}, _pairs, _rotation
    ),
    "nvfp4": WeightFormat(
        "nvfp4",
        ("U8",),
        decoding.nvfp4,
        {"weight_scale": Companion(("F8_E4M3", "U8"), _tiles(NVFP4_BLOCK)), "weight_scale_2": Companion(_REAL, _one)},
        {"pre_quant_scale": Companion(_REAL, _one_an_input)},
        _pairs,
        _blocks(NVFP4_BLOCK),
    ),
    "mxfp8": WeightFormat(
        "mxfp8",
        ("F8_E4M3",),
        decoding.mxfp8,
        {"weight_scale": Companion(("F8_E8M0", "U8"), _tiles(MXFP8_BLOCK))},
        fault=_blocks(MXFP8_BLOCK),
    ),
}

_TABLE = {"weight.quant_map": Companion(("F32",), _table(16))}
_NESTED = {
    "weight.absmax": Companion(("U8",), _largest),
    "weight.nested_absmax": Companion(("F32",), _outer_largest),
    "weight.nested_quant_map": Companion(("F32",), _table(256)),
}
BITSANDBYTES, BITSANDBYTES_NESTED = (
    WeightFormat(
        "bitsandbytes 4-bit",
        ("U8",),
        decoding.bitsandbytes,
        _TABLE | largest,
        logical=_noted_shape,
        fault=_table_fault,
    )
    for largest in ({"weight.absmax": Companion(("F32",), _largest)}, _NESTED)
)
