"""GGUF files (llama.cpp's format, with FLUX in it): read by the ``gguf`` package, decoded by diffusers in plain torch.

Both are asked for only here, and only when such a file is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..failure_words import reason
from .errors import BaseModelError

SUFFIX = ".gguf"

_SHAPE_FIELD = "comfy.gguf.orig_shape."
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def read_header(file: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    """Key -> (shape of the weight, GGUF's name of its type), and the texts among the file's fields.

    Raises ``BaseModelError`` for a damaged file, and where the ``gguf`` package is missing.
    """
    reader = _reader(file)
    tensors = {each.name: (_shape(file, reader, each), each.tensor_type.name) for each in reader.tensors}
    texts = {
        name: bytes(field.parts[-1]).decode(errors="replace")
        for name, field in reader.fields.items()
        if name.startswith("general.") and [kind.name for kind in field.types] == ["STRING"]
    }
    return tensors, texts


def opened(file: Path) -> Callable[[str], Tensor]:
    """What gives a tensor of ``file`` by its key, as a flat tensor of bytes."""
    tensors = {each.name: each for each in _reader(file).tensors}

    def bytes_of(key: str) -> Tensor:
        # A copy: the file is mapped read-only, which torch does not know.
        return torch.from_numpy(np.array(tensors[key].data).reshape(-1).view(np.uint8))

    return bytes_of


@functools.cache
def can_decode(dtype: str) -> bool:
    """Whether ``decoded`` knows the type of this name."""
    if dtype in _PLAIN or dtype in _decoders():
        return True
    gguf = _package()
    try:
        _by_package(torch.zeros(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]][1], dtype=torch.uint8), dtype)
    except NotImplementedError:
        return False
    return True


def decoded(raw: Tensor, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of ``shape`` whose bytes are ``raw``, on the device of ``raw``: fp32, or the plain type that it has.

    ``dtype``: GGUF's name of the type, one that ``can_decode``. Types that diffusers does not know are decoded by the
    package itself, on the CPU.
    """
    if dtype in _PLAIN:
        return raw.view(_PLAIN[dtype]).reshape(shape)
    if dtype not in _decoders():
        return _by_package(raw, dtype).reshape(shape)
    decode, block, size = _decoders()[dtype]
    # Scales are halves in the file; in fp32 their products are not rounded again.
    return decode(raw.reshape(-1, size), block, size, dtype=torch.float32).reshape(shape)


def _by_package(raw: Tensor, dtype: str) -> Tensor:
    gguf = _package()
    kind = gguf.GGMLQuantizationType[dtype]
    values = gguf.quants.dequantize(raw.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]).cpu().numpy(), kind)
    return torch.from_numpy(values).to(raw.device)


@functools.cache
def _decoders() -> dict[str, tuple[Callable[..., Tensor], int, int]]:
    """Name of a type -> (decoder of blocks, values in a block, bytes in a block)."""
    from diffusers.quantizers.gguf import utils

    return {kind.name: (decode, *utils.GGML_QUANT_SIZES[kind]) for kind, decode in utils.dequantize_functions.items()}


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise BaseModelError(
            "GGUF files need the Python package gguf. Install it where ComfyUI's Python is (pip install gguf), or "
            "choose a .safetensors file."
        ) from error
    return gguf


def _reader(file: Path) -> Any:
    gguf = _package()
    try:
        return gguf.GGUFReader(file)
    except AttributeError as error:
        # Of versions that do not know numpy 2.
        raise BaseModelError(
            f"{file} cannot be read by this version of the package gguf ({error}). Update it: pip install -U gguf."
        ) from error
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise BaseModelError(
            f"{file} cannot be read as GGUF ({reason(error)}). Download it again, or choose another file."
        ) from error


def _shape(file: Path, reader: Any, tensor: Any) -> tuple[int, ...]:
    # GGUF counts the dimensions from the innermost. A tensor whose rows do not fit the blocks is written in another
    # shape, and its own is noted.
    noted = reader.fields.get(_SHAPE_FIELD + tensor.name)
    sizes = [noted.parts[i][0] for i in noted.data] if noted is not None else reversed(tensor.shape.tolist())
    shape = tuple(map(int, sizes))
    if prod(shape) != tensor.n_elements:
        raise BaseModelError(f"{file.name}: key {tensor.name} holds no tensor of {list(shape)}. Download it again.")
    return shape
