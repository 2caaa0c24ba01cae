"""FLUX.1's VAE and text encoders, without ComfyUI. How they read is said at the top of ``encoders``."""

from __future__ import annotations

import functools
import gc
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..base.families.latent_space import FLUX_1
from ..config import EncodersConfig
from .encoder_files import EncodersError, check_vae_config, model_files, text_files, vae_file
from .encoder_keys import content_key
from .flux_vae import load_vae
from .text_readers import TextReaders
from .vae_pixels import check_channels, pictures_of, vae_input

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class FluxEncoders:
    """FLUX.1's own VAE, CLIP-L and T5, from files on this machine.

    The text encoders are let go before the VAE is read, so that both are never in memory together: encode all captions
    before the first picture, as ``encode`` does, or they are read again.
    """

    space = FLUX_1

    def __init__(self, folder: Path | None, config: EncodersConfig, device: torch.device | str) -> None:
        """``folder``: as ``encoders.folder``, or ``None`` where none is given. Raises ``EncodersError``."""
        if folder is None:
            raise EncodersError(
                "There are no text encoders for this base. Set encoders.folder to a folder of FLUX.1 in diffusers' "
                "layout, with text_encoder, text_encoder_2, tokenizer, tokenizer_2 and vae."
            )
        self._device = torch.device(device)
        self._precision = config.precision
        self._max_tokens = config.max_tokens
        self._folder = folder
        self._text_files = text_files(folder)
        self._vae_files = [vae_file(config.vae)] if config.vae else model_files(folder, "vae", "encoders.vae", "FLUX.1")
        self._vae_folder = None if config.vae else folder / "vae"
        if self._vae_folder is not None:
            check_vae_config(self._vae_folder)
        self._vae: AutoencoderKL | None = None
        self._readers: TextReaders | None = None

    @functools.cached_property
    def vae_key(self) -> str:
        return f"{content_key(self._vae_files)}/fp32"

    @functools.cached_property
    def text_key(self) -> str:
        return f"{content_key(self._text_files)}/{self._precision}/{self._max_tokens}"

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._picture_encoder().encode(vae_input(pixels, FLUX_1.factor).to(self._device)).latent_dist
        return posterior.mean.float().cpu(), posterior.std.float().cpu()

    @torch.no_grad()
    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        if self._readers is None:
            self._readers = TextReaders(self._folder, PRECISIONS[self._precision], self._device)
        return self._readers.read(caption, self._max_tokens)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        check_channels(latents, FLUX_1)
        vae = self._picture_encoder()
        raw = FLUX_1.denormalise(latents.float().to(self._device))
        return pictures_of(vae.decode(one).sample for one in raw.split(1))

    def free_text_encoders(self) -> None:
        self._readers = None
        collect()

    def free(self) -> None:
        self._readers = self._vae = None
        collect()

    def _picture_encoder(self) -> AutoencoderKL:
        if self._vae is None:
            self.free_text_encoders()
            self._vae = load_vae(self._vae_files[0], self._vae_folder).to(self._device).eval().requires_grad_(False)
        return self._vae


def collect() -> None:
    """Give freed memory back, the card's too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
