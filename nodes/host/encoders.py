"""The host's VAE and CLIP objects: loading the tiny ones, encoding with any, and naming them by their weights."""

from __future__ import annotations

import logging
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer
from torch import Tensor

from ...training.base.base_model import TINY_BASE_FOLDER
from ...training.base.families.latent_space import LatentSpace
from ...training.data.encoder_keys import weights_key
from ..conditioning import prompt_of
from ..tiny_clip import TinyClipTarget
from ..widgets import supported
from .versions import DEV_TEXT, KLEIN_TEXT, lacking

log = logging.getLogger(__name__)


def load_tiny_clip() -> Any:
    """The tiny base's text encoder as a CLIP of the host."""
    options = {"dtype": torch.float32}
    return comfy.sd.CLIP(
        TinyClipTarget, model_options=options, **supported(comfy.sd.CLIP.__init__, disable_dynamic=True)
    )


def load_tiny_vae() -> Any:
    """The tiny base's VAE as a VAE of the host."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(TINY_BASE_FOLDER / "vae.safetensors")), dtype=torch.float32)
    vae.throw_exception_if_invalid()
    return vae


@torch.inference_mode()
def encode_image(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """(1, H, W, 3) in [0, 1] -> the posterior's raw mean (1, C, H/f, W/f) and its deviation, if there is one.

    The host's VAE keeps the mean alone, so the moments are read where they enter its regulariser. FLUX.2's normalises
    the mean, for which its statistics were taken, and has no deviation, as in black-forest-labs' own code. When a
    picture had to be encoded in tiles for want of memory, the tiles' moments do not add up to the picture's, and the
    mean is all there is.
    """
    moments: list[Tensor] = []
    regulariser = getattr(vae.first_stage_model, "regularization", None)
    normalises = getattr(vae.first_stage_model, "bn", None) is not None
    handle = None
    if isinstance(regulariser, DiagonalGaussianRegularizer) and not normalises:
        handle = regulariser.register_forward_pre_hook(lambda _, inputs: moments.append(inputs[0].detach()))
    try:
        encoded = vae.encode(pixels).float().cpu()
    finally:
        if handle is not None:
            handle.remove()
    if handle is None:
        return encoded, None
    if len(moments) != 1 or moments[0].shape[2:] != encoded.shape[2:]:
        log.warning("A picture of %d x %d was encoded in tiles; its posterior is not sampled.", *pixels.shape[2:0:-1])
        return encoded, None
    mean, log_variance = moments[0].float().cpu().chunk(2, dim=1)
    # The clamp is the host's own (and Stable Diffusion's): a bound against overflow.
    return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


@torch.inference_mode()
def encode_prompt(clip: Any, caption: str, space: LatentSpace) -> tuple[Tensor, Tensor]:
    """A caption -> (L, D) and (P,), as ``prompt_of`` has them.

    Raises ``ValueError`` for a text encoder that bases with latents of ``space`` cannot use.
    """
    try:
        return prompt_of(clip.encode_from_tokens_scheduled(clip.tokenize(caption)), "CLIP", space)
    except ValueError as error:
        lack = "" if space.pooled else lacking(DEV_TEXT, KLEIN_TEXT)
        raise ValueError(f"{error} {lack}".rstrip()) from error


def vae_key(vae: Any) -> str:
    """Names a VAE by its weights, for the cache of encodings."""
    return _weights_of(vae.first_stage_model) + f"/{vae.vae_dtype}" + _patches_key(vae.patcher)


def clip_key(clip: Any) -> str:
    """Names a text encoder by its weights and its settings."""
    settings = f"/{clip.layer_idx}/{sorted(clip.tokenizer_options.items())!r}"
    return _weights_of(clip.cond_stage_model) + settings + _patches_key(clip.patcher)


def _weights_of(model: torch.nn.Module) -> str:
    return weights_key(type(model).__name__, model.state_dict().items())


def _patches_key(patcher: Any) -> str:
    # Such as a LoRA on the text encoder. Their identity holds for this process only, so a restart encodes again.
    return f"/{patcher.patches_uuid}" if patcher.patches else ""
