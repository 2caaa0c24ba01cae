"""In which number format the frozen weights lie on the device, and how one of them gets there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .frozen_linear import FrozenLinear
from .int8 import GROUP, Int8Weight, dequantised, quantised


class Precision(NamedTuple):
    """``dtype``: what is computed with. ``int8``: the blocks' linear layers hold int8 rows, rotated in ``group``."""

    dtype: torch.dtype
    int8: bool = False
    group: int = 0


PRECISIONS = {
    "bf16": Precision(torch.bfloat16),
    "fp32": Precision(torch.float32),
    "int8": Precision(torch.bfloat16, int8=True),
    "int8_convrot": Precision(torch.bfloat16, int8=True, group=GROUP),
}


def brought_into(precision: Precision, name: str, weight: Tensor | Int8Weight) -> Tensor | Int8Weight:
    """``weight``, of diffusers' name ``name``, in this precision, brought into it where it lies.

    What comes in int8 stays as it is where int8 is wanted. Outside the blocks, and where there is no matrix, weights
    are few: those are never rounded to int8.
    """
    if isinstance(weight, Int8Weight) and precision.int8 and "blocks." in name:
        return weight
    if isinstance(weight, Int8Weight):
        return dequantised(weight, precision.dtype)
    if precision.int8 and weight.ndim == 2 and "blocks." in name:
        group = precision.group
        return quantised(weight, group if group and weight.shape[1] % group == 0 else 0)
    return weight.to(precision.dtype)


def place(
    transformer: nn.Module,
    name: str,
    weight: Tensor | Int8Weight,
    precision: Precision,
    home: torch.device | str,
) -> None:
    """Put ``weight`` where ``name`` says, ``brought_into`` this precision and then moved to ``home``.

    Raises ``AttributeError`` where the transformer has no such place.
    """
    path, _, leaf = name.rpartition(".")
    module = transformer.get_submodule(path)
    # diffusers' own list: such as norms, which are computed with in fp32 whatever the rest is.
    wide = getattr(transformer, "_keep_in_fp32_modules", None) or ()
    if any(part in name.split(".") for part in wide):
        precision = PRECISIONS["fp32"]
    weight = brought_into(precision, name, weight)
    if isinstance(weight, Int8Weight):
        weight = Int8Weight(weight.values.to(home), weight.scales.to(home), weight.group)
        parent, _, child = path.rpartition(".")
        setattr(transformer.get_submodule(parent), child, FrozenLinear(weight, module.bias))
        return
    getattr(module, leaf)
    setattr(module, leaf, nn.Parameter(weight.to(home), requires_grad=False))
