"""What every discriminator is to its user: ``look`` once, ``judge`` as often as needed.

A frozen trunk costs far more than the trained part behind it. What it makes of some latents does not change while the
discriminator is trained, so one look serves the generator's loss, the discriminator's and its penalties.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Selects samples: a mask or numbers in a tensor, numbers in a list, or a slice.
Rows = Tensor | list[int] | slice


class Conditioning(NamedTuple):
    """The prompts of B samples: ``prompt_embeds`` (B, L, D) and ``pooled_prompt_embeds`` (B, P), where P may be 0."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor

    @property
    def pooled(self) -> Tensor:
        """Each prompt in one vector: the pooled one, or, where there is none, the mean over its tokens (B, D).

        Each token is normalised before: in the hidden states of language models some tokens, the same in all prompts,
        are orders larger than the others (arXiv:2402.17762), and would be all that a mean tells.
        """
        if self.pooled_prompt_embeds.shape[1]:
            return self.pooled_prompt_embeds
        tokens = self.prompt_embeds.to(torch.promote_types(self.prompt_embeds.dtype, torch.float32))
        return F.layer_norm(tokens, tokens.shape[2:]).mean(1)

    def rows(self, index: Rows) -> Conditioning:
        """The prompts of the samples in ``index``, in its order."""
        return Conditioning(self.prompt_embeds[index], self.pooled_prompt_embeds[index])


class Seen(NamedTuple):
    """What a discriminator sees of B samples before any trained weight of its own is used.

    ``features``: tensors whose first dimension is B; ``sigma``: (B,) noise levels; ``pooled``: (B, P), the prompts in
    one vector each, or None where the discriminator looks at no prompt.
    """

    features: tuple[Tensor, ...]
    sigma: Tensor
    pooled: Tensor | None

    def detach(self) -> Seen:
        """The same, cut from the graph that leads back to the latents: all that the discriminator's loss needs."""
        pooled = None if self.pooled is None else self.pooled.detach()
        return Seen(tuple(f.detach() for f in self.features), self.sigma.detach(), pooled)

    def rows(self, index: Rows) -> Seen:
        """The samples in ``index``, in its order."""
        pooled = None if self.pooled is None else self.pooled[index]
        return Seen(tuple(f[index] for f in self.features), self.sigma[index], pooled)


def concatenate(*seen: Seen) -> Seen:
    """The samples of all ``seen``, one after the other, so that they can be judged at once.

    Raises ``ValueError`` for nothing, for unlike numbers of features, or where only some have a ``pooled``.
    """
    if not seen:
        raise ValueError("There is nothing to concatenate.")
    pooled = [one.pooled for one in seen if one.pooled is not None]
    if len(pooled) not in (0, len(seen)):
        raise ValueError(f"{len(pooled)} of {len(seen)} have pooled prompts; concatenate needs all or none.")
    if len({len(one.features) for one in seen}) > 1:
        raise ValueError(f"Expected as many features of each, got {[len(one.features) for one in seen]}.")
    features = tuple(torch.cat(same) for same in zip(*(one.features for one in seen), strict=True))
    return Seen(features, torch.cat([one.sigma for one in seen]), torch.cat(pooled) if pooled else None)


class Discriminator(nn.Module):
    """Base of all discriminators. Samples never influence each other, so any split of a batch is judged the same."""

    def look(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning | None = None) -> Seen:
        """The part that depends on no trained weight: ``latents`` (B, C, h, w) at noise levels ``sigma`` (B,).

        Differentiable by ``latents``. Raises ``ValueError`` for shapes that do not fit the discriminator.
        """
        raise NotImplementedError

    def judge(self, seen: Seen) -> list[Tensor]:
        """Unreduced maps of logits, each (B, 1, h', w'). Their number is the same for every size of the latents."""
        raise NotImplementedError

    def forward(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning | None = None) -> list[Tensor]:
        """``look``, then ``judge``."""
        return self.judge(self.look(latents, sigma, conditioning))
