"""Names of encoders by their weights, for the cache of encodings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

_SAMPLES, _SAMPLE_BYTES = 64, 4096


def weights_key(kind: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of a module's kind and of its weights' names, shapes and 64 values each, in order.

    The values count as fp32, the shapes with the number type that the weights are kept in.
    """
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for name, tensor in weights:
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, flat.numel() // 64)][:64]
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(sampled.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def content_key(files: Sequence[Path]) -> str:
    """Hash of names, sizes and samples spread over each file: all of it up to 256 KiB, and that much of a larger."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}".encode())
        with open(file, "rb") as stream:
            for sample in _samples(size):
                stream.seek(sample)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _samples(size: int) -> Iterator[int]:
    for number in range(_SAMPLES):
        yield max(0, (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
