"""Three discriminators on latents, all told the noise level (``sigma``) of what they are shown.

``LatentCNN`` gives one verdict per patch, ``LatentPatchCNN`` one per patch at each of three scales, ``LatentMLP`` one
per picture. None looks at the prompt. All work on any latent size, keep samples independent (no statistics over the
batch, so accumulated micro-batches equal one large batch) and are twice differentiable, which R1 (arXiv:1801.04406) and
the gradient penalty of arXiv:1704.00028 need. None normalises its activations: as in R3GAN (arXiv:2501.05441) the
initialisation alone keeps them near unit variance, and a normalisation would both hide a picture's overall energy and
undo spectral normalisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .interface import Conditioning, Discriminator, Seen

_SLOPE = 0.2
_SIGMA_FREQUENCIES = 32
_SIGMA_WIDTH = 128
_WIDEST = 512
_GRID = 4
_POWER_ITERATIONS = 20
_HEAD_GAIN = 0.1
_SCALES = 3
_WIDTH = 64


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value (arXiv:1802.05957, eq. 8), a kernel read as (out, in*kh*kw).

    Unlike ``torch.nn.utils.parametrizations.spectral_norm``, whose estimate moves with every forward, the power
    iteration starts from a fixed vector each time. The normalised weight is then a function of the weight alone:
    four forwards of one sample equal one forward of four, and a resumed run repeats itself.
    """

    start: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", torch.randn(weight.shape[0]))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad():
            left = self.start
            for _ in range(_POWER_ITERATIONS):
                right = F.normalize(matrix.t() @ left, dim=0)
                left = F.normalize(matrix @ right, dim=0)
        return weight / torch.dot(left, matrix @ right).clamp_min(1e-12)


class SigmaEmbedding(nn.Module):
    """(B,) noise levels in [0, 1] to (B, features): sines and cosines (arXiv:1706.03762, sec. 3.5), then one layer.

    The frequencies run geometrically from 1 to 100 radians per unit of sigma: levels 0.01 apart can be told apart,
    and a level that was never drawn lies smoothly between its neighbours.
    """

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 2, _SIGMA_FREQUENCIES), persistent=False)
        self.layer = nn.Linear(2 * _SIGMA_FREQUENCIES, _SIGMA_WIDTH)

    def forward(self, sigma: Tensor) -> Tensor:
        angles = sigma[:, None] * self.frequencies
        return F.silu(self.layer(torch.cat([angles.sin(), angles.cos()], 1)))


class FiLM(nn.Module):
    """Scales and shifts each channel by the noise level (arXiv:1709.07871, eq. 2); the identity when initialised.

    The scale is ``1 + tanh``, in (0, 2): no noise level can flip a feature's sign or lift a layer's gain without
    bound, which would defeat spectral normalisation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(_SIGMA_WIDTH, 2 * channels)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.layer(embedding).reshape(*features.shape[:2], 2, *[1] * (features.ndim - 2)).unbind(2)
        return features * (1 + torch.tanh(scale)) + shift


def _initialise(network: nn.Module, head: nn.Module, linear: tuple[nn.Module, ...], spectral_norm: bool) -> None:
    """Kaiming normal (arXiv:1502.01852, eq. 15) for LeakyReLU(0.2), zero biases, FiLM at the identity, a small head.

    Layers in ``linear``, which no activation follows, keep the variance of their input instead.
    Latents of unit variance then give logits of at most about 0.1, so every loss starts near its equilibrium value
    and neither side begins with a lead. Spectral normalisation overrides the head's scale, but shrinks what reaches it.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            follower = "linear" if module in linear else "leaky_relu"
            nn.init.kaiming_normal_(module.weight, a=_SLOPE, nonlinearity=follower)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, FiLM):
            nn.init.zeros_(module.layer.weight)
    nn.init.normal_(head.weight, std=_HEAD_GAIN / math.sqrt(head.weight[0].numel()))
    if spectral_norm:
        # FiLM and the embedding see sigma, not latents: their gain does not count, and FiLM starts at zero.
        parts = [m for m in network.modules() if isinstance(m, FiLM | SigmaEmbedding)]
        conditioning = {part.layer for part in parts}
        for module in list(network.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in conditioning:
                parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))


class LatentDiscriminator(Discriminator):
    """Base of the networks that look at latents directly and have nothing frozen: ``look`` only checks its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def look(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning | None = None) -> Seen:
        """``latents`` (B, channels, h, w) and their levels ``sigma`` (B,) in [0, 1], in the weights' own precision.

        ``conditioning`` is not used. Raises ``ValueError`` for another number of channels, or of levels.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise ValueError(
                f"This discriminator was built for latents of shape (batch, {self.channels}, height, width), "
                f"got {tuple(latents.shape)}."
            )
        if sigma.shape != latents.shape[:1]:
            raise ValueError(
                f"sigma must hold one level a sample, shape ({latents.shape[0]},), got {tuple(sigma.shape)}."
            )
        dtype = next(self.parameters()).dtype
        return Seen((latents.to(dtype),), sigma.to(dtype), None)


class LatentCNN(LatentDiscriminator):
    """Convolutions with a verdict per patch: a 3x3 stem, ``depth`` 3x3 stages of stride 2, and a 1x1 head.

    Channels double from ``width`` at each stage, up to 512 (or ``width``, if larger). A verdict's field of view is
    2^(depth + 1) + 1 latents a side. A side that has come down to 2 keeps stride 1, so a 4x4 latent passes
    any depth.
    """

    def __init__(self, channels: int, width: int, depth: int, spectral_norm: bool) -> None:
        super().__init__(channels)
        widths = [min(width * 2**stage, max(width, _WIDEST)) for stage in range(depth + 1)]
        self.embedding = SigmaEmbedding()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.films = nn.ModuleList(FiLM(w) for w in widths)
        self.head = nn.Conv2d(widths[-1], 1, 1)
        _initialise(self, self.head, (), spectral_norm)

    def judge(self, seen: Seen) -> list[Tensor]:
        """One map of logits, [(B, 1, h', w')]."""
        (x,) = seen.features
        embedding = self.embedding(seen.sigma)
        x = F.leaky_relu(self.films[0](self.stem(x), embedding), _SLOPE)
        for conv, film in zip(self.stages, self.films[1:], strict=True):
            stride = [2 if side > 2 else 1 for side in x.shape[2:]]
            x = F.conv2d(x, conv.weight, conv.bias, stride=stride, padding=1)
            x = F.leaky_relu(film(x, embedding), _SLOPE)
        return [self.head(x)]


class LatentPatchCNN(LatentDiscriminator):
    """A ``LatentCNN`` of its own at each of three scales (arXiv:1711.11585, sec. 3.2): texture, parts, layout.

    The second and third see the latents averaged over 2x2 and 4x4 places, which also lifts what is large out of the
    noise that renoising adds. A side that has come down to 2 is averaged no further, so there are three maps whatever
    the size; those of a 4x4 latent see 4x4, 2x2 and 2x2.
    """

    def __init__(self, channels: int, width: int, depth: int, spectral_norm: bool) -> None:
        super().__init__(channels)
        self.towers = nn.ModuleList(LatentCNN(channels, width, depth, spectral_norm) for _ in range(_SCALES))

    def judge(self, seen: Seen) -> list[Tensor]:
        """Three maps of logits, [(B, 1, h', w')], from the finest scale to the coarsest."""
        (x,) = seen.features
        maps = []
        for scale, tower in enumerate(self.towers):
            if scale:
                # Rounded up, an odd side's last row is averaged alone rather than lost.
                x = F.avg_pool2d(x, [2 if side > 2 else 1 for side in x.shape[2:]], ceil_mode=True)
            maps += tower.judge(seen._replace(features=(x,)))
        return maps


def _area_average(size: int, cells: int, like: Tensor) -> Tensor:
    """(cells, size) matrix that averages ``size`` values over ``cells`` equal intervals, shared values by overlap."""
    values = torch.arange(size, dtype=torch.float64)
    edges = torch.arange(cells + 1, dtype=torch.float64) * size / cells
    upper = torch.minimum(edges[1:, None], values + 1)
    lower = torch.maximum(edges[:-1, None], values)
    return ((upper - lower).clamp_min(0) * cells / size).to(like)


class LatentMLP(LatentDiscriminator):
    """One verdict per picture: a projection of each 2x2 patch, a fixed summary of any size, and ``depth`` layers.

    The summary holds the means of the ``width`` projected features over a 4x4 grid of equal areas, and each feature's
    standard deviation over the picture: layout from the first, texture from the second. The 2x2 patches are FLUX's own
    tokens. The layers have 2 ``width`` units.
    """

    def __init__(self, channels: int, width: int, depth: int, spectral_norm: bool) -> None:
        super().__init__(channels)
        self.embedding = SigmaEmbedding()
        self.projection = nn.Conv2d(channels, width, 2, stride=2)
        units = [width * (_GRID**2 + 1), *[2 * width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(units[:-1], units[1:], strict=True))
        self.films = nn.ModuleList(FiLM(w) for w in [width, *units[1:]])
        self.head = nn.Linear(units[-1], 1)
        _initialise(self, self.head, (self.projection,), spectral_norm)

    def judge(self, seen: Seen) -> list[Tensor]:
        """One logit a picture, [(B, 1, 1, 1)]. An odd side is filled up with a row of zeros."""
        (x,) = seen.features
        embedding = self.embedding(seen.sigma)
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        x = self.films[0](self.projection(x), embedding)
        # As matrix products: adaptive pooling's backward is not deterministic on CUDA.
        cells = _area_average(x.shape[2], _GRID, x) @ x @ _area_average(x.shape[3], _GRID, x).t()
        # The constant keeps the root differentiable for a flat picture. Less 1, about what unit latents give, since
        # features that share a large mean move every logit at once, and losses with a fixed zero then oscillate.
        spread = (x.flatten(2).var(2, correction=0) + 1e-6).sqrt() - 1
        x = torch.cat([cells.flatten(1), spread], 1)
        for layer, film in zip(self.layers, self.films[1:], strict=True):
            x = F.leaky_relu(film(layer(x), embedding), _SLOPE)
        return [self.head(x)[:, :, None, None]]


_ARCHITECTURES: dict[str, type[LatentPatchCNN] | type[LatentCNN] | type[LatentMLP]] = {
    "patch_cnn": LatentPatchCNN,
    "cnn": LatentCNN,
    "mlp": LatentMLP,
}


def build(
    architecture: str, *, width: int, depth: int, spectral_norm: bool, seed: int, channels: int = 16
) -> LatentDiscriminator:
    """A discriminator in fp32 on the CPU, with the same weights for the same ``seed``; global random state stays.

    ``architecture``: ``patch_cnn``, ``cnn`` or ``mlp``; ``width``: channels or units of the first layer, 0 for 64;
    ``depth``: number of stages, at least 1; ``channels``: of the latents. For the initialisation see ``_initialise``.

    Raises ``ValueError`` for another architecture, width or depth.
    """
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ValueError(f"Unknown discriminator architecture {architecture!r}; choose from {known}.")
    if width < 0 or depth < 1:
        raise ValueError(
            f"A discriminator needs a width of at least 1 (or 0, for {_WIDTH}) and a depth of at least 1, "
            f"got width={width}, depth={depth}."
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed CUDA's generators, which fork_rng(devices=[]) does not put back.
        torch.default_generator.manual_seed(seed)
        return _ARCHITECTURES[architecture](channels, width or _WIDTH, depth, spectral_norm).float()
