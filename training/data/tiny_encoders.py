"""The tiny base's VAE and text encoder, without ComfyUI. Equal to the graph's, to the last bit on the CPU."""

from __future__ import annotations

import functools

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor, nn

from ..base.checkpoint_files import TINY_BASE_FOLDER
from ..base.families.latent_space import FLUX_1
from .encoder_keys import weights_key
from .tiny_text import TinyTextEncoder
from .vae_pixels import check_channels, pictures_of, vae_input


class TinyEncoders:
    """The tiny base's VAE and text encoder."""

    space = FLUX_1

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._vae: _TinyVae | None = None
        self._text: TinyTextEncoder | None = None

    @functools.cached_property
    def vae_key(self) -> str:
        # Names of class, weights and number type are those of the host's VAE: nodes/host/encoders.py has the same key.
        return f"{weights_key('TAESD', _tiny_vae_weights())}/{torch.float32}"

    @functools.cached_property
    def text_key(self) -> str:
        named = ((f"encoder.{name}", tensor) for name, tensor in self._text_encoder().state_dict().items())
        # The settings of a CLIP of the host that nobody has changed.
        return weights_key("TinyClipModel", named) + "/None/[]"

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.picture_vae().encode(vae_input(pixels, FLUX_1.factor).to(self._device)).float().cpu(), None

    @torch.no_grad()
    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        embeds, pooled = self._text_encoder().encode([caption])
        return embeds[0].float().cpu(), pooled[0].float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        check_channels(latents, FLUX_1)
        vae = self.picture_vae()
        raw = FLUX_1.denormalise(latents.float().to(self._device))
        return pictures_of(vae.decode(one) for one in raw.split(1))

    def free_text_encoders(self) -> None:
        self._text = None

    def free(self) -> None:
        self._text = self._vae = None

    def picture_vae(self) -> _TinyVae:
        """Between pictures in [-1, 1] and FLUX's raw latents, many at once."""
        if self._vae is None:
            self._vae = _TinyVae(dict(_tiny_vae_weights())).to(self._device)
        return self._vae

    def _text_encoder(self) -> TinyTextEncoder:
        if self._text is None:
            self._text = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors").to(self._device)
        return self._text


class _TinyVae(nn.Module):
    """TAESD for FLUX between pictures in [-1, 1] and FLUX's raw latents, from weights as the host names them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("scale", weights.pop("vae_scale"))
        self.register_buffer("shift", weights.pop("vae_shift"))
        self.network = AutoencoderTiny(latent_channels=FLUX_1.channels)
        self.network.load_state_dict({_diffusers_name(name): tensor for name, tensor in weights.items()})
        self.eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.encode(pixels).latents / self.scale + self.shift

    def decode(self, raw: Tensor) -> Tensor:
        return self.network.decode((raw - self.shift) * self.scale).sample


def _tiny_vae_weights() -> list[tuple[str, Tensor]]:
    """Names and weights, in fp32, in the order of the host's own module."""

    def place(name: str) -> tuple:
        # vae_scale and vae_shift, encoder, decoder; layers by number; a weight before its bias.
        part, *path = name.split(".")
        first = ("vae_scale", "vae_shift", "taesd_encoder", "taesd_decoder").index(part)
        return first, *(int(word) if word.isdigit() else {"conv": 0, "weight": 1, "bias": 2}[word] for word in path)

    weights = load_file(TINY_BASE_FOLDER / "vae.safetensors")
    return [(name, weights[name].float()) for name in sorted(weights, key=place)]


def _diffusers_name(name: str) -> str:
    """``taesd_decoder.1.weight`` -> ``decoder.layers.0.weight``: the host counts the decoder's clamp as a layer."""
    part, number, rest = name.split(".", 2)
    if part == "taesd_encoder":
        return f"encoder.layers.{number}.{rest}"
    return f"decoder.layers.{int(number) - 1}.{rest}"
