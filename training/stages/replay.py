"""Fakes of earlier updates, so that the discriminator does not forget what it once learned to tell."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...discriminator.interface import Conditioning
from ...discriminator.masks import inside
from .. import draws
from ..data.batches import Batch, prompt_of
from ..data.real_latents import RealLatents
from .ranks import ALONE, Ranks

CAPACITY = 256
_EMPTY_PROMPT = -1


class Fake(NamedTuple):
    """One estimate (C, h, w) as it was made: for which of the dataset's prompts, ``None`` for the empty one, and where.

    ``mask`` (1, h, w): the places that the LoRA answers for, and how much; beyond them the latents are the picture's.
    """

    latents: Tensor
    prompt: int | None
    mask: Tensor | None


class Recalled(NamedTuple):
    """Endpoints (B, C, h, w) of which some are kept ones, each with the prompt that it was made for.

    ``mask`` (B, 1, h, w): where both the batch's picture and the endpoint count. ``kept`` (B,) bool: which are kept.
    """

    endpoint: Tensor
    conditioning: Conditioning
    mask: Tensor | None
    kept: Tensor


class Replay:
    """The last ``CAPACITY`` one-step estimates, on the CPU (arXiv:1612.07828, sec. 2.3).

    A sample is replaced by one of the same latents' size and length of prompt, which can be stacked.
    """

    def __init__(self, data: RealLatents, share: float, seed: int) -> None:
        self._data, self._share, self._seed = data, share, seed
        self._kept: dict[tuple[int, ...], list[Fake]] = {}
        # Estimates of the update at hand, by size. They are kept only after it: what a micro-batch is given must not
        # depend on how the batch was cut.
        self._made: list[tuple[tuple[int, ...], Fake]] = []

    def recall(self, batch: Batch, endpoint: Tensor, estimates: Sequence[bool], draw: int) -> Recalled:
        """``endpoint`` (B, C, h, w) with a share of its ``estimates`` of the data replaced by kept ones.

        Which are replaced, and by which, depends on (seed, draw, position). The estimates are kept at the next
        ``keep``, with the picture itself where it is masked out.
        """
        own = endpoint if batch.mask is None else torch.where(inside(batch.mask), endpoint, batch.x0)
        size = (*endpoint.shape[1:], batch.prompt_embeds.shape[1])
        for row, is_estimate in enumerate(estimates):
            if is_estimate:
                prompt = None if batch.dropped[row] else batch.captions[row]
                mask = None if batch.mask is None else _kept(batch.mask[row])
                self._made.append((size, Fake(_kept(own[row]), prompt, mask)))
        old = self._drawn(size, estimates, draw, batch.positions)
        modes = batch.few_step or (False,) * len(old)
        prompts = [
            (batch.prompt_embeds[row], batch.pooled_prompt_embeds[row])
            if fake is None
            else ((prompt := prompt_of(self._data, fake.prompt, few)).prompt_embeds, prompt.pooled_prompt_embeds)
            for row, (fake, few) in enumerate(zip(old, modes, strict=True))
        ]
        return Recalled(
            torch.stack([mine if fake is None else fake.latents.to(mine) for mine, fake in zip(own, old, strict=True)]),
            Conditioning(*(torch.stack([part.to(own) for part in side]) for side in zip(*prompts, strict=True))),
            _both(batch, old),
            torch.tensor([fake is not None for fake in old], device=own.device),
        )

    def keep(self, ranks: Ranks = ALONE) -> None:
        """Keep what all ranks have made in this update; the oldest of each size make room."""
        for size, fake in itertools.chain(*ranks.gather_objects(self._made)):
            kept = self._kept.setdefault(size, [])
            kept.append(fake)
            del kept[:-CAPACITY]
        self._made.clear()

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by size and age."""
        state = {}
        for size, kept in self._kept.items():
            for number, fake in enumerate(kept):
                name = f"{'x'.join(map(str, size))}.{number:04}"
                state[f"{name}.latents"] = fake.latents
                state[f"{name}.prompt"] = torch.tensor(_EMPTY_PROMPT if fake.prompt is None else fake.prompt)
                if fake.mask is not None:
                    state[f"{name}.mask"] = fake.mask
        return state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``state()`` gave."""
        self._kept = {}
        for key in sorted(key for key in tensors if key.endswith(".latents")):
            name = key.removesuffix(".latents")
            number = int(tensors[f"{name}.prompt"])
            fake = Fake(tensors[key], None if number == _EMPTY_PROMPT else number, tensors.get(f"{name}.mask"))
            size = tuple(int(side) for side in name.split(".")[0].split("x"))
            self._kept.setdefault(size, []).append(fake)

    def _drawn(
        self, size: tuple[int, ...], estimates: Sequence[bool], draw: int, positions: Sequence[int]
    ) -> list[Fake | None]:
        kept = self._kept.get(size)
        if not kept:
            return [None] * len(positions)
        replaced = draws.uniforms(self._seed, draw, positions, "replay") < self._share
        places = (draws.uniforms(self._seed, draw, positions, "replay place") * len(kept)).long()
        return [
            kept[place] if wanted and may else None
            for may, wanted, place in zip(estimates, replaced.tolist(), places.tolist(), strict=True)
        ]


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).clone()


def _both(batch: Batch, old: Sequence[Fake | None]) -> Tensor | None:
    """The lesser of both sides' masks, (B, 1, h, w)."""
    if batch.mask is None and not any(fake is not None and fake.mask is not None for fake in old):
        return None
    mask = batch.x0.new_ones(len(old), 1, *batch.x0.shape[2:]) if batch.mask is None else batch.mask
    sides = [
        mine if fake is None or fake.mask is None else torch.minimum(mine, fake.mask.to(mine))
        for mine, fake in zip(mask, old, strict=True)
    ]
    return torch.stack(sides)
