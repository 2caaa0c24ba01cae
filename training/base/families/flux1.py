"""FLUX.1 (dev, schnell, Krea): the layout of latents and blocks, and the layers a LoRA may sit on."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

# Of FLUX.1 and its VAE. A base in a diffusers folder may have fewer (``FluxBase.latent_channels``).
LATENT_CHANNELS = 16
VAE_FACTOR = 8
PATCH = 2
VAE_SHIFT = 0.1159
VAE_SCALE = 0.3611
PIXELS_PER_TOKEN = VAE_FACTOR * PATCH

# Where the discriminator taps the base, as shares of its depth: after FLUX.1's double blocks 4, 11 and 18 and its
# single block 8. The other half of the blocks then need not run for it.
_TAP_DEPTHS = (5 / 57, 12 / 57, 19 / 57, 28 / 57)
_TAP = re.compile(r"([ds])(\d+)")

_BLOCK = r"(?:single_)?transformer_blocks\.\d+\."
_ATTENTION = r"attn\.(?:to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_MLP = r"ff\.net\.0\.proj|ff\.net\.2|ff_context\.net\.0\.proj|ff_context\.net\.2|proj_mlp|proj_out"
_MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"

TARGET_PRESETS = {
    "attention": _BLOCK + f"(?:{_ATTENTION})",
    "attention+mlp": _BLOCK + f"(?:{_ATTENTION}|{_MLP})",
    "all": _BLOCK + f"(?:{_ATTENTION}|{_MLP}|{_MODULATION})",
}


def modulation_layers(block: nn.Module) -> list[nn.Module]:
    """The layers of a block that take the level and the pooled prompt alone, one vector a sample, adapted or not."""
    return [layer for name, layer in block.named_modules() if re.fullmatch(_MODULATION, name)]


def normalise(raw: Tensor) -> Tensor:
    """VAE latents as the VAE gives them -> latents as the transformer takes them (about unit variance)."""
    return (raw - VAE_SHIFT) * VAE_SCALE


def denormalise(latents: Tensor) -> Tensor:
    """The inverse of ``normalise``: what the VAE decodes, and what the host's LATENT socket carries."""
    return latents / VAE_SCALE + VAE_SHIFT


def num_tokens(height: int, width: int) -> int:
    """Packed tokens of latents of this height and width."""
    return (height // PATCH) * (width // PATCH)


def check_latents(latents: Tensor, what: str, channels: int = LATENT_CHANNELS) -> None:
    """Raises ``ValueError`` where a base with ``channels`` latent channels cannot take ``latents`` (b, channels, h, w).

    Wrong are another rank, another number of channels, and odd sides. ``what`` names the latents in the message.
    """
    if latents.ndim != 4 or latents.shape[1] != channels:
        if channels == LATENT_CHANNELS:
            layout, vae = "FLUX.1 latents are", "FLUX's own VAE"
        else:
            layout, vae = "the latents of this base are", "the VAE that belongs to the base"
        raise ValueError(
            f"{what}: {layout} (batch, {channels}, height, width), got {tuple(latents.shape)}. "
            f"Encode with {vae} ({channels} channels)."
        )
    if latents.shape[2] % PATCH or latents.shape[3] % PATCH:
        raise ValueError(
            f"{what}: height and width of FLUX.1 latents must be even, got {tuple(latents.shape[2:])}. "
            f"Use picture sides that are multiples of {PIXELS_PER_TOKEN}."
        )


def pack(latents: Tensor) -> Tensor:
    """(b, c, 2h, 2w) -> (b, h w, 4c): each token holds a 2x2 patch, channel-major."""
    b, c, height, width = latents.shape
    h, w = height // PATCH, width // PATCH
    patches = latents.reshape(b, c, h, PATCH, w, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h * w, c * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``pack`` for latents of this ``height`` and ``width``."""
    b, _, depth = tokens.shape
    c, h, w = depth // PATCH**2, height // PATCH, width // PATCH
    patches = tokens.reshape(b, h, w, c, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, c, height, width)


def token_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(b, h w, d) tokens of latents of this ``height`` and ``width`` -> (b, d, height / 2, width / 2)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height // PATCH, width // PATCH)


def image_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Rotary positions (h w, 3) of latents of this size: (0, row, column) of each token."""
    h, w = height // PATCH, width // PATCH
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(h * w, 3).float()


def text_ids(length: int, device: torch.device) -> Tensor:
    """Rotary positions (length, 3) of the prompt: all zero."""
    return torch.zeros(length, 3, device=device)


def target_pattern(targets: str, target_regex: str) -> re.Pattern[str]:
    """The expression that a linear layer's full name must match entirely to be adapted."""
    return re.compile(target_regex if targets == "regex" else TARGET_PRESETS[targets])


def tap_blocks(taps: str, doubles: int, singles: int) -> tuple[int, ...]:
    """The tapped blocks, rising, of a base with this many double and single blocks, which are counted through.

    ``taps`` names them, such as ``d4,d11,s9``; empty means the family's own. Raises ``ValueError`` for a name that is
    no such block.
    """
    if not taps.strip():
        return tuple(sorted({max(1, round(depth * (doubles + singles))) - 1 for depth in _TAP_DEPTHS}))
    blocks = set()
    for name in taps.split(","):
        found = _TAP.fullmatch(name.strip())
        kind, number = (found[1], int(found[2])) if found else ("", 0)
        if not found or number >= (doubles if kind == "d" else singles):
            raise ValueError(
                f"taps: {name.strip()!r} is no block of this base. It has d0 to d{doubles - 1} and s0 to "
                f"s{singles - 1}; separate several by commas, or leave taps empty."
            )
        blocks.add(number if kind == "d" else doubles + number)
    return tuple(sorted(blocks))
