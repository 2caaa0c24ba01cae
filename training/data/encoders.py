"""Pictures and captions into what FLUX trains on, without ComfyUI: by FLUX's VAE and text encoders, or the tiny base's.

The encodings are those of the graph, as far as that can be:

- The tiny base's are equal to the last bit on the CPU, and so are the keys that name its weights, so that the graph and
  a headless run share one cache.
- T5 reads a caption as ComfyUI has it read: padded with its pad token to 256 tokens, or to what a longer caption needs,
  with no attention mask, so that padding is attended to. ComfyUI never cuts a caption; here it is cut at
  ``max_tokens``, with a warning. (diffusers' pipelines always pad to 512, which is another encoding.)
- CLIP reads the first 77 tokens, start and end included, padded with the end token. ComfyUI reads a longer caption in
  pieces and takes the first piece's pooled output, which is the same.
- ComfyUI keeps the weights in half precision and computes in fp32. So does this; the VAE is in fp32 altogether, where
  ComfyUI has it in bf16 on a GPU that can.
- T5 computes one block at a time in fp32. Where a card has not 12 GB free, its weights stay in ordinary memory until
  then, whatever ComfyUI does with it.
- FLUX.2's VAE gives the mode of its posterior alone, patched and normalised by its own statistics.
- Qwen3 (klein) reads a caption in the template of a chat, padded with its padding token to 512 tokens, to which longer
  ones are cut; ComfyUI does not cut them. Mistral 3 (dev) reads it unpadded, and zeros are put before its prompt up to
  512 tokens, as in ComfyUI; diffusers has the encoder read padding there, which is another encoding.
- Not the same: ComfyUI takes ``(words)`` and ``(words:1.2)`` as emphasis, and ``embedding:name`` as a file to put in.
  Here a caption is plain text.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..base.checkpoint_files import BaseModelError, read_transformer_config
from ..base.families import family_of
from ..base.families.family import Family
from ..base.families.flux1 import FLUX1
from ..base.families.flux2 import FLUX2
from ..base.families.latent_space import LatentSpace
from ..config import TINY_BASE, EncodersConfig
from .encoder_files import EncodersError, encoders_folder
from .flux2_encoders import Flux2Encoders
from .flux_encoders import FluxEncoders
from .tiny_encoders import TinyEncoders


class Encoders(Protocol):
    """What ``encode`` needs, and the way back to pictures. Weights are read when they are first needed.

    One picture or caption at a time goes in, from any device; all results are fp32 on the CPU.
    """

    space: LatentSpace

    @property
    def vae_key(self) -> str:
        """Names the VAE by its weights, for the cache of encodings. Reads no weights that it need not."""

    @property
    def text_key(self) -> str:
        """Names the text encoders by weights and settings, for the cache of encodings."""

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(1, H, W, 3) in [0, 1] -> the posterior's raw mean and deviation (1, C, H/f, W/f); no deviation: ``None``.

        Sides that are no multiple of f lose what is over, half at each end.
        """

    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        """A caption -> prompt embeddings (L, D) and the pooled ones (P,); P is 0 where the base takes none."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, C, h, w) in model space -> pictures (n, f h, f w, 3) in [0, 1]."""

    def free_text_encoders(self) -> None:
        """Let go of the text encoders' weights. They are read again when they are needed."""

    def free(self) -> None:
        """Let go of all weights. They are read again when they are needed."""


def load_encoders(config: EncodersConfig, checkpoint: str, device: torch.device | str) -> Encoders:
    """The encoders that belong to the base ``checkpoint``, computing on ``device``.

    The tiny base has its own, whatever ``config`` says. For any other, ``config.folder``, or ``checkpoint`` where that
    is a folder in diffusers' layout, has the text encoders in it, and the VAE unless ``config.vae`` names a file.
    Reads no weights yet, but finds out whether all files are there.

    Raises ``EncodersError`` where something is missing or the VAE is not that of the base's family; the methods do so
    where weights turn out to be damaged.
    """
    if checkpoint == TINY_BASE:
        return TinyEncoders(device)
    family = _family_of(checkpoint)
    if family not in _BY_FAMILY:
        raise EncodersError(
            f"There are no text encoders of {family.name} for a run without ComfyUI. Train it in ComfyUI, where "
            f"{family.loader} loads them."
        )
    return _BY_FAMILY[family](encoders_folder(config, checkpoint, family), config, device)


_BY_FAMILY = {FLUX1: FluxEncoders, FLUX2: Flux2Encoders}


def _family_of(checkpoint: str) -> Family:
    try:
        return family_of(read_transformer_config(checkpoint))
    except BaseModelError:  # said where the base is read
        return FLUX1
