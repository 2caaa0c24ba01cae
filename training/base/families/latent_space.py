"""What a VAE makes of pictures, and how its latents become a transformer's tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LatentSpace:
    """The latents of one VAE. Those of its first family name it.

    ``channels`` of a latent; ``factor``: pixels of the picture along one side of a latent pixel; ``patch``: latent
    pixels along one side of a token. ``shift`` and ``scale`` lead from what the VAE gives to what transformers take.
    ``vae``: the VAE in words for people, ``file``: the file that it is offered as. ``pooled``: whether prompts for its
    bases have a pooled vector.
    """

    name: str
    channels: int
    factor: int
    patch: int
    shift: float
    scale: float
    vae: str
    file: str
    pooled: bool

    @property
    def pixels_per_token(self) -> int:
        """Along one side: what sides of pictures must be multiples of."""
        return self.factor * self.patch

    def normalise(self, raw: Tensor) -> Tensor:
        """VAE latents as the VAE gives them -> latents as the transformer takes them (about unit variance)."""
        return raw if self.scale == 1 and not self.shift else (raw - self.shift) * self.scale

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of ``normalise``: what the VAE decodes, and what the host's LATENT socket carries."""
        return latents if self.scale == 1 and not self.shift else latents / self.scale + self.shift

    def num_tokens(self, height: int, width: int) -> int:
        """Packed tokens of latents of this height and width."""
        return (height // self.patch) * (width // self.patch)

    def check(self, latents: Tensor, what: str, channels: int | None = None) -> None:
        """Raises ``ValueError`` where a base with ``channels`` latent channels (all of them for ``None``) cannot take
        ``latents`` (b, channels, h, w).

        Wrong are another rank, another number of channels, and sides that are no whole number of tokens. ``what`` names
        the latents in the message.
        """
        wanted = self.channels if channels is None else channels
        if latents.ndim != 4 or latents.shape[1] != wanted:
            if wanted == self.channels:
                layout, vae = f"{self.name} latents are", self.vae
            else:
                layout, vae = "the latents of this base are", "the VAE that belongs to the base"
            raise ValueError(
                f"{what}: {layout} (batch, {wanted}, height, width), got {tuple(latents.shape)}. "
                f"Encode with {vae} ({wanted} channels)."
            )
        if latents.shape[2] % self.patch or latents.shape[3] % self.patch:
            raise ValueError(
                f"{what}: height and width of {self.name} latents must be even, got {tuple(latents.shape[2:])}. "
                f"Use picture sides that are multiples of {self.pixels_per_token}."
            )

    def pack(self, latents: Tensor) -> Tensor:
        """(b, c, p h, p w) -> (b, h w, p p c): each token holds a p x p patch, channel-major."""
        b, c, height, width = latents.shape
        p, h, w = self.patch, height // self.patch, width // self.patch
        patches = latents.reshape(b, c, h, p, w, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(b, h * w, c * p * p)

    def unpack(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse of ``pack`` for latents of this ``height`` and ``width``."""
        b, _, depth = tokens.shape
        p = self.patch
        c, h, w = depth // p**2, height // p, width // p
        patches = tokens.reshape(b, h, w, c, p, p).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(b, c, height, width)

    def token_map(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(b, h w, d) tokens of latents of this ``height`` and ``width`` -> (b, d, height / p, width / p)."""
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height // self.patch, width // self.patch)


FLUX_1 = LatentSpace(
    name="FLUX.1", channels=16, factor=8, patch=2, shift=0.1159, scale=0.3611, vae="FLUX's own VAE",
    file="ae.safetensors", pooled=True,
)  # fmt: skip
# The host's VAE, and diffusers' pipelines, patch and normalise by the VAE's own statistics already.
FLUX_2 = LatentSpace(
    name="FLUX.2", channels=128, factor=16, patch=1, shift=0.0, scale=1.0, vae="FLUX.2's own VAE",
    file="flux2-vae.safetensors", pooled=False,
)  # fmt: skip


def space_of(channels: int) -> LatentSpace:
    """Whose latents have so many channels: FLUX.2's, which FLUX.3 shares, or else FLUX.1's, of which a base may take
    fewer."""
    return FLUX_2 if channels == FLUX_2.channels else FLUX_1
