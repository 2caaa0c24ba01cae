"""Which blocks are streamed."""

from __future__ import annotations


def spread(count: int, share: float) -> tuple[int, ...]:
    """Indices of a ``share`` in [0, 1] of ``count`` blocks, to the nearest whole number, at even distances."""
    chosen = round(share * count)
    return tuple((2 * number + 1) * count // (2 * chosen) for number in range(chosen))
