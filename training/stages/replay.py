"""Fakes of earlier updates, so that the discriminator does not forget what it once learned to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import draws

CAPACITY = 256


class Replay:
    """The last ``CAPACITY`` one-step estimates, on the CPU (arXiv:1612.07828, sec. 2.3), by their latents' size."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: dict[tuple[int, ...], list[Tensor]] = {}

    def add(self, x0_hat: Tensor) -> None:
        """Keep estimates (n, C, h, w); the oldest make room."""
        if len(x0_hat):
            kept = self._kept.setdefault(tuple(x0_hat.shape[1:]), [])
            kept.extend(x0_hat.detach().to("cpu", torch.float32).clone())
            del kept[:-CAPACITY]

    def mix(
        self, x0_hat: Tensor, replaceable: Tensor, share: float, draw: int, positions: Sequence[int]
    ) -> Tensor:
        """``x0_hat`` with a ``share`` of the ``replaceable`` samples replaced by kept ones.

        ``replaceable``: (n,) bool. Which are replaced, and by which, depends on (seed, draw, position).
        """
        kept = self._kept.get(tuple(x0_hat.shape[1:]))
        if not kept:
            return x0_hat
        replaced = replaceable & (draws.uniforms(self._seed, draw, positions, "replay") < share)
        places = (draws.uniforms(self._seed, draw, positions, "replay place") * len(kept)).long().tolist()
        old = torch.stack([kept[place] for place in places]).to(x0_hat)
        return torch.where(replaced.to(x0_hat.device)[:, None, None, None], old, x0_hat)

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by latents' size and age."""
        return {
            f"{'x'.join(map(str, shape))}.{number:04}": tensor
            for shape, kept in self._kept.items()
            for number, tensor in enumerate(kept)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``state()`` gave."""
        self._kept = {}
        for _, tensor in sorted(tensors.items()):
            self._kept.setdefault(tuple(tensor.shape), []).append(tensor)
