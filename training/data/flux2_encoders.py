"""FLUX.2's VAE and text encoder, without ComfyUI. How they read is said at the top of ``encoders``."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from ..base.families.latent_space import FLUX_2
from ..config import EncodersConfig
from .encoder_files import EncodersError, model_files
from .encoder_keys import content_key
from .flux2_text import Flux2Reader, text_config
from .flux2_vae import Flux2Vae, check_vae_file, check_vae_folder
from .flux_encoders import PRECISIONS, collect
from .vae_pixels import check_channels, pictures_of, vae_input

FAMILY = FLUX_2.name


class Flux2Encoders:
    """FLUX.2's own VAE, and Qwen3 (klein) or Mistral 3 (dev), from files on this machine.

    The text encoder is let go before the VAE is read, as in ``FluxEncoders``.
    """

    space = FLUX_2

    def __init__(self, folder: Path | None, config: EncodersConfig, device: torch.device | str) -> None:
        """``folder``: as ``encoders.folder``, or ``None`` where none is given. Raises ``EncodersError``."""
        if folder is None:
            raise EncodersError(
                "There is no text encoder for this base. Set encoders.folder to a folder of FLUX.2 in diffusers' "
                "layout, with text_encoder, tokenizer and vae."
            )
        self._device = torch.device(device)
        self._precision = config.precision
        self._folder = folder
        self._text_files = [*model_files(folder, "text_encoder", None, FAMILY), _tokenizer_file(folder)]
        text_config(folder / "text_encoder")
        self._vae_folder = None if config.vae else folder / "vae"
        if self._vae_folder is None:
            self._vae_files = [check_vae_file(config.vae)]
        else:
            self._vae_files = model_files(folder, "vae", "encoders.vae", FAMILY)
            check_vae_folder(self._vae_folder)
        self._vae: Flux2Vae | None = None
        self._reader: Flux2Reader | None = None

    @functools.cached_property
    def vae_key(self) -> str:
        return f"{content_key(self._vae_files)}/fp32"

    @functools.cached_property
    def text_key(self) -> str:
        return f"{content_key(self._text_files)}/{self._precision}"

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, None]:
        given = vae_input(pixels, FLUX_2.factor).to(self._device)
        return self._picture_vae().encode(given).float().cpu(), None

    @torch.no_grad()
    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        if self._reader is None:
            self._reader = Flux2Reader(self._folder, PRECISIONS[self._precision], self._device)
        return self._reader.read(caption), torch.zeros(0)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        check_channels(latents, FLUX_2)
        vae = self._picture_vae()
        return pictures_of(vae.decode(one) for one in latents.float().to(self._device).split(1))

    def free_text_encoders(self) -> None:
        self._reader = None
        collect()

    def free(self) -> None:
        self._reader = self._vae = None
        collect()

    def _picture_vae(self) -> Flux2Vae:
        if self._vae is None:
            self.free_text_encoders()
            self._vae = Flux2Vae(self._vae_files[0], self._vae_folder).to(self._device)
        return self._vae


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        raise EncodersError(
            f"encoders.folder: {file.parent} lacks tokenizer.json. Download that part of {FAMILY} in diffusers' "
            "layout, or set encoders.folder to a complete one."
        )
    return file
