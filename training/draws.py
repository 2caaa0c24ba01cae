"""Random draws that depend only on (seed, step, position, stream).

A sample's noise is the same whether it is trained alone or in a batch, on a CPU or a GPU, in a run that was
interrupted or not: so accumulating four single samples equals one batch of four, and a resumed run repeats itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, step: int, position: int, stream: str) -> torch.Generator:
    """A CPU generator for one sample of one step. ``stream`` names the use, so that uses are independent."""
    digest = hashlib.blake2b(f"{seed}/{step}/{position}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normals(seed: int, step: int, positions: Sequence[int], stream: str, shape: Sequence[int] = ()) -> Tensor:
    """Standard normal draws (len(positions), *shape), fp32, on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed, step, p, stream)) for p in positions])


def uniforms(seed: int, step: int, positions: Sequence[int], stream: str, shape: Sequence[int] = ()) -> Tensor:
    """Draws from [0, 1) of shape (len(positions), *shape), fp32, on the CPU."""
    return torch.stack([torch.rand(tuple(shape), generator=generator(seed, step, p, stream)) for p in positions])
