"""A discriminator that sees through the frozen base: small heads on the features of several of its blocks.

As in LADD (arXiv:2403.12015, section 3): the base, adapter off, is the feature extractor, so what is judged is what a
text-to-image model already knows of pictures at that noise level and prompt. Nothing of the base is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .interface import Conditioning, Discriminator, Seen
from .networks import FiLM, SigmaEmbedding, SpectralNorm

FeatureFunction = Callable[[Tensor, Tensor, Conditioning], Sequence[Tensor]]

_SLOPE = 0.2
_NARROWEST = 64
_TRUNK_SHARE = 12


class Head(nn.Module):
    """A map of logits from one block's features: norm, 1x1, modulation, a 3x3 residual, 1x1.

    The norm is over channels and without weights: magnitudes of a transformer's hidden states differ by orders between
    blocks. A 3x3 kernel keeps verdicts local; the trunk's attention has looked at the whole picture already.
    """

    def __init__(self, trunk_width: int, width: int, pooled_dim: int) -> None:
        super().__init__()
        self.embedding = SigmaEmbedding()
        self.text = nn.Linear(pooled_dim, self.embedding.layer.out_features)
        self.project = nn.Conv2d(trunk_width, width, 1)
        self.film = FiLM(width)
        self.residual = nn.Conv2d(width, width, 3, padding=1)
        self.logits = nn.Conv2d(width, 1, 1)
        for layer in (self.project, self.residual):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE, nonlinearity="leaky_relu")
        nn.init.zeros_(self.film.layer.weight)
        # Starts near a logit of 0, where no loss has a lead for either side.
        nn.init.normal_(self.logits.weight, std=0.1 / width**0.5)
        for layer in (self.project, self.residual, self.film.layer, self.logits):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, sigma: Tensor, pooled: Tensor) -> Tensor:
        """(B, trunk_width, h, w) -> (B, 1, h, w)."""
        x = F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
        condition = self.embedding(sigma) + F.silu(self.text(pooled))
        x = F.leaky_relu(self.film(self.project(x), condition), _SLOPE)
        x = x + F.leaky_relu(self.residual(x), _SLOPE)
        return self.logits(x)


class FluxFeatures(Discriminator):
    """Heads on the feature maps that ``features(latents, sigma, conditioning)`` gives: one map of logits for each.

    The function is held, but is no part of the module: ``parameters()`` are the heads' alone, in fp32. The maps stay in
    the type that they come in; each head enlarges its own.
    """

    def __init__(
        self, features: FeatureFunction, *, taps: int, trunk_width: int, pooled_dim: int, width: int = 0,
        spectral_norm: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._features = features
        width = width or max(_NARROWEST, trunk_width // _TRUNK_SHARE)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            self.heads = nn.ModuleList(Head(trunk_width, width, pooled_dim) for _ in range(taps))
            if spectral_norm:
                for layer in (layer for h in self.heads for layer in (h.project, h.residual, h.logits)):
                    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))

    def look(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning | None = None) -> Seen:
        """The frozen base's features of ``latents`` (B, C, h, w) at ``sigma`` (B,), given the prompts."""
        if conditioning is None:
            raise ValueError("flux_features judges latents together with their prompts: conditioning is missing.")
        features = tuple(self._features(latents, sigma, conditioning))
        if len(features) != len(self.heads):
            raise ValueError(f"Expected the features of {len(self.heads)} blocks, got {len(features)}.")
        return Seen(features, sigma, conditioning.pooled)

    def judge(self, seen: Seen) -> list[Tensor]:
        """One map of logits a tapped block, each (B, 1, h / 2, w / 2)."""
        dtype = self.heads[0].logits.weight.dtype
        sigma, pooled = seen.sigma.to(dtype), seen.pooled.to(dtype)
        return [head(f.to(dtype), sigma, pooled) for head, f in zip(self.heads, seen.features, strict=True)]
