"""What the device can do at most: matrix products of FLUX.1's shapes, and copies from the host."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from fluxduel.training.base import int8_kernels
from fluxduel.training.base.int8 import GROUP, quantised
from fluxduel.training.failure_words import reason

from .subject import Subject

# Products in a row between two looks at the clock, so that its own time does not count.
IN_A_ROW = 10
COPIED = 1 << 30


def ceilings(subject: Subject, pixels: tuple[int, ...]) -> dict[str, Any]:
    """TFLOP/s of a large product in bf16; of each product of the blocks, in bf16 and in int8, at each picture's tokens.

    ``int8`` is the product of integers alone; ``layer``, by kernel, all that a layer in int8_convrot does in its
    forward pass, the rounding of activations included. ``best_kernel`` is the one that the engine takes.
    GB/s of copies from pinned and from pageable memory.
    """
    shape, device, cuda = subject.shape, subject.device, subject.device.type == "cuda"
    large = 8192 if cuda else 256
    width = shape.heads * shape.head_dim
    products: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for side in pixels:
        rows = shape.tokens + (side // 16) ** 2
        for size_in, size_out in ((width, width), (width, 4 * width), (4 * width, width), (5 * width, width)):
            products[f"{rows} x {size_in} -> {size_out}"] = {
                "bf16": product(subject, rows, size_in, size_out, torch.bfloat16),
                "int8": product(subject, rows, size_in, size_out, torch.int8),
                "layer": layers(subject, rows, size_in, size_out, failed),
            }
    source = torch.empty(COPIED if cuda else COPIED >> 6, dtype=torch.uint8)
    target = torch.empty_like(source, device=device)
    source.fill_(1)
    copies = {"pageable": copied(subject, source, target)}
    if cuda:
        copies["pinned"] = copied(subject, source.pin_memory(), target)
    return {
        "large": large,
        "bf16_tflops": product(subject, large, large, large, torch.bfloat16),
        "int8_tflops": product(subject, large, large, large, torch.int8),
        "products_tflops": products,
        "best_kernel": int8_kernels.best_kernel(device, GROUP),
        "failed_kernels": failed,
        "copies_gb_per_s": copies,
    }


def product(subject: Subject, rows: int, size_in: int, size_out: int, dtype: torch.dtype) -> float:
    """TFLOP/s (in int8: TOP/s) of (rows, size_in) times the transpose of a linear layer's (size_out, size_in)."""
    if dtype == torch.int8:
        left, right = (
            torch.randint(-127, 128, size, dtype=dtype, device=subject.device)
            for size in ((rows, size_in), (size_out, size_in))
        )
        multiply: Callable[..., torch.Tensor] = torch._int_mm
    else:
        left, right = (
            torch.randn(size, device=subject.device).to(dtype) for size in ((rows, size_in), (size_out, size_in))
        )
        multiply = torch.mm

    return speed(subject, 2 * rows * size_in * size_out, lambda: multiply(left, right.t()))


def layers(subject: Subject, rows: int, size_in: int, size_out: int, failed: dict[str, str]) -> dict[str, float]:
    """TOP/s of the forward pass of a layer in int8_convrot by each kernel; those that fail are told in ``failed``."""
    x = torch.randn(rows, size_in, device=subject.device).to(torch.bfloat16)
    weight = torch.randn(size_out, size_in, device=subject.device)
    rounded = quantised(weight, 0 if size_in % GROUP else GROUP)
    found = {}
    for kernel in int8_kernels.KERNELS:
        if kernel in failed:
            continue
        try:
            multiply = functools.partial(int8_kernels.product, x, rounded, kernel)
            found[kernel] = speed(subject, 2 * rows * size_in * size_out, multiply)
        # Whatever a library does that is not there, or that does not know the device.
        except Exception as problem:
            failed[kernel] = reason(problem)[:200]
    return found


def speed(subject: Subject, operations: int, work: Callable[[], Any]) -> float:
    """TFLOP/s of ``work``, which takes so many operations."""

    def some() -> None:
        for _ in range(IN_A_ROW):
            work()

    some()
    return round(operations * IN_A_ROW / subject.median(some) / 1e12, 3)


def copied(subject: Subject, source: torch.Tensor, target: torch.Tensor) -> float:
    """GB/s of a copy."""
    target.copy_(source)
    return round(source.nbytes / subject.median(lambda: target.copy_(source)) / 1e9, 2)
