"""Whether a VAE of the host's is FLUX's, and which: by what it is built of, and by how it sees colours."""

from __future__ import annotations

import math
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...training.base.families.latent_space import FLUX_1, FLUX_2, LatentSpace
from ...training.data.other_vaes import BY_CHANNELS, whose_scale
from ...training.data.tiny_text import TinyTextEncoder
from .encoders import encode_image, load_tiny_vae, vae_key

ADVICE = (
    f"Connect FLUX's own VAE ({FLUX_1.file}; {FLUX_2.file} for FLUX.2), or the VAE of Load Tiny FLUX Encoders for the "
    "tiny base."
)
MIXED = (
    "of VAE and prompts one is the tiny base's and the other is not: a LoRA that is trained on them is of no use. "
    f"{ADVICE} The prompts come from the same model."
)
# Classes of the host whose latents have FLUX.1's 16 channels.
VIDEO_KINDS = {
    "WanVAE": "Wan 2.1's or Qwen-Image's",
    "AutoencoderKL": "HunyuanVideo's",
    "CausalContinuousVideoTokenizer": "Cosmos's",
}
SQUARES, SQUARE_SIDE = 8, 32
LEAST_COLOUR = 0.4


def check_vae(vae: Any, where: str, wanted: LatentSpace | None = None) -> LatentSpace:
    """Whose latents a VAE makes, FLUX.1's or FLUX.2's.

    Raises ``ValueError``, beginning with ``where``, for one that is told from both by its build, or whose latents are
    not those ``wanted``. Stable Diffusion 3's has FLUX.1's build: see ``doubt_of``.
    """
    vae.throw_exception_if_invalid()
    normalises = getattr(vae.first_stage_model, "bn", None) is not None
    space = FLUX_2 if normalises and vae.latent_channels == FLUX_2.channels else FLUX_1
    if space is FLUX_1:
        _check_flux_1(vae, where)
    if wanted not in (None, space):
        raise ValueError(
            f"{where}: this VAE is {space.name}'s, and the base takes latents of {wanted.name}'s. Connect {wanted.vae} "
            f"({wanted.file})."
        )
    return space


def _check_flux_1(vae: Any, where: str) -> None:
    channels, network = vae.latent_channels, vae.first_stage_model
    scale = getattr(network, "vae_scale", None)
    if channels != FLUX_1.channels:
        whose = BY_CHANNELS.get(channels, "another model's")
        fault = f"makes latents of {channels} channels, as {whose} does; FLUX.1 needs {FLUX_1.channels}"
    elif vae.latent_dim != 2:
        whose = VIDEO_KINDS.get(type(network).__name__, "a video model's")
        fault = f"is {whose}, not FLUX.1's, although its latents have as many channels"
    elif vae.spacial_compression_encode() != FLUX_1.factor:
        fault = f"divides sides by {vae.spacial_compression_encode()}; FLUX.1's divides them by {FLUX_1.factor}"
    elif scale is not None and not math.isclose(float(scale), FLUX_1.scale, rel_tol=0.01):
        fault = f"scales latents by {float(scale):.3g}, as {whose_scale(float(scale))} does, not by {FLUX_1.scale}"
    else:
        return
    raise ValueError(f"{where}: this VAE {fault}. {ADVICE}")


def doubt_of(vae: Any, prompt_width: int) -> str:
    """A sentence where a VAE of FLUX.1's build is likely not the one of the base; empty where it is.

    The base is the tiny one where prompts are as wide as its own. FLUX.2's VAE is known by its build. Any other is
    FLUX.1's, and is known by how it sees colours: it encodes a chart of them, and the host's linear map from FLUX's
    latents to colours, which its previews use, is to bring those back. The map is the best fit to FLUX's own latents,
    so nearly all of the colour comes back there. The least latents that show the chart to the same map of Stable
    Diffusion 3 bring back 0.10 of it, random weights nothing.
    """
    tiny = vae_key(vae) == vae_key(load_tiny_vae())
    if tiny or prompt_width == TinyTextEncoder.WIDTH:
        return "" if tiny and prompt_width == TinyTextEncoder.WIDTH else MIXED
    if vae.latent_channels == FLUX_2.channels:
        return ""
    chart = colour_chart()
    colour = colour_share(FLUX_1.normalise(encode_image(vae, chart)[0]), chart)
    if colour >= LEAST_COLOUR:
        return ""
    return (
        f"this VAE does not see colours as FLUX's own does: {colour:.2f} of them where that has about 1. It may be "
        "another model's, such as Stable Diffusion 3's, whose latents have 16 channels too. A LoRA that is trained on "
        f"them is of no use to FLUX. {ADVICE}"
    )


def colour_chart() -> Tensor:
    """Squares of fixed, random colours: an IMAGE (1, 256, 256, 3)."""
    colours = torch.rand(1, SQUARES, SQUARES, 3, generator=torch.Generator().manual_seed(0))
    return colours.repeat_interleave(SQUARE_SIDE, 1).repeat_interleave(SQUARE_SIDE, 2)


def colour_share(latents: Tensor, picture: Tensor) -> float:
    """How much of ``picture`` (1, H, W, 3) FLUX's map brings back from ``latents`` (1, 16, H/8, W/8) in model space.

    The slope of the colours that come back over the true ones: 1 for all, 0 for none.
    """
    layout = comfy.latent_formats.Flux()
    seen = torch.einsum("nchw,ck->nkhw", latents.float().cpu(), torch.tensor(layout.latent_rgb_factors))
    seen = seen + torch.tensor(layout.latent_rgb_factors_bias).reshape(1, 3, 1, 1)
    true = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1) * 2 - 1, FLUX_1.factor)
    return ((seen * true).sum() / true.square().sum()).item()
