"""A frozen linear layer with an int8 weight: nothing in it is trained, and gradients pass through to its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from .int8 import Int8Weight, rotated
from .int8_kernels import best_kernel, product


class FrozenLinear(nn.Linear):
    """``nn.Linear`` with an ``Int8Weight``: activations are multiplied as integers, gradients with the exact weight.

    ``weight`` is the int8 parameter (out, inputs), ``scales`` a buffer (out,). The gradient of the input is the
    product with what the int8 weight stands for, in the gradient's type: rounding the gradient as well would put a
    second error on what the adversarial loss sends through the base twice.
    """

    def __init__(self, weight: Int8Weight, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.values.shape
        self.group = weight.group
        self.kernel = best_kernel(weight.values.device, weight.group)
        self.weight = nn.Parameter(weight.values, requires_grad=False)
        self.register_buffer("scales", weight.scales)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        found = _Product.apply(x, self.weight, self.scales, self.group, self.kernel)
        return found if self.bias is None else found + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # Of another device the quickest kernel is another; of none that computes there is none.
        if not self.weight.is_meta:
            self.kernel = best_kernel(self.weight.device, self.group)
        return self

    def extra_repr(self) -> str:
        rotation = f", rotated in {self.group}" if self.group else ""
        return f"{self.in_features}, {self.out_features}, int8{rotation}, by {self.kernel}"


class _Product(torch.autograd.Function):
    """The weight goes through ``save_for_backward``: where it has been overwritten since, backward says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scales: Tensor, group: int, kernel: str) -> Tensor:
        ctx.save_for_backward(values, scales)
        ctx.group = group
        return product(x, Int8Weight(values, scales, group), kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        values, scales = ctx.saved_tensors
        found = (gradient * scales.to(gradient.dtype)) @ values.to(gradient.dtype)
        return rotated(found, ctx.group) if ctx.group else found, None, None, None, None
