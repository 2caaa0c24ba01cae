"""What the device can do at most: matrix products of FLUX.1's shapes, and copies from the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .subject import Subject

# Products in a row between two looks at the clock, so that its own time does not count.
IN_A_ROW = 10
COPIED = 1 << 30


def ceilings(subject: Subject, pixels: tuple[int, ...]) -> dict[str, Any]:
    """TFLOP/s of a large product in bf16; of each product of the blocks, in bf16 and in int8, at each picture's tokens.

    GB/s of copies from pinned and from pageable memory.
    """
    shape, device, cuda = subject.shape, subject.device, subject.device.type == "cuda"
    large = 8192 if cuda else 256
    width = shape.heads * shape.head_dim
    products: dict[str, Any] = {}
    for side in pixels:
        rows = shape.tokens + (side // 16) ** 2
        for size_in, size_out in ((width, width), (width, 4 * width), (4 * width, width), (5 * width, width)):
            products[f"{rows} x {size_in} -> {size_out}"] = {
                "bf16": product(subject, rows, size_in, size_out, torch.bfloat16),
                "int8": product(subject, rows, size_in, size_out, torch.int8),
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

    def some() -> None:
        for _ in range(IN_A_ROW):
            multiply(left, right.t())

    some()
    return round(2 * rows * size_in * size_out * IN_A_ROW / subject.median(some) / 1e12, 3)


def copied(subject: Subject, source: torch.Tensor, target: torch.Tensor) -> float:
    """GB/s of a copy."""
    target.copy_(source)
    return round(source.nbytes / subject.median(lambda: target.copy_(source)) / 1e9, 2)
