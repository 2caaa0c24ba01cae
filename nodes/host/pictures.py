"""Latents and pictures for the page and for IMAGE sockets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import numpy
import torch
from PIL import Image
from torch import Tensor

from ...training.base.base_model import BaseReference
from ...training.base.families.latent_space import FLUX_2, space_of
from ...training.config import TINY_BASE
from ...training.evidence.picture_files import side_by_side, single_pictures
from .encoders import load_tiny_vae


def image_tensor(picture: Image.Image) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255).unsqueeze(0)


def preview_decoder(base: BaseReference) -> Callable[[Tensor], Image.Image]:
    """What turns model-space latents (n, C, h, w) into one picture of all n side by side."""
    decode = _preview_pixels(base)
    return lambda latents: side_by_side(decode(latents))


def picture_decoder(vae: Any, base: BaseReference) -> Callable[[Tensor], list[Image.Image]]:
    """What turns model-space latents (n, C, h, w) into n pictures: by ``vae``, or as previews where that is none."""
    if vae is None:
        decode = _preview_pixels(base)
        return lambda latents: single_pictures(decode(latents))
    return lambda latents: single_pictures(vae.decode(space_of(latents.shape[1]).denormalise(latents)))


def _preview_pixels(base: BaseReference) -> Callable[[Tensor], Tensor]:
    return _tiny_pictures if base.path == TINY_BASE else _latent_colours


@torch.inference_mode()
def _tiny_pictures(latents: Tensor) -> Tensor:
    return _preview_vae().decode(space_of(latents.shape[1]).denormalise(latents))


@functools.cache
def _preview_vae() -> Any:
    return load_tiny_vae()


def _latent_colours(latents: Tensor) -> Tensor:
    """Pictures (n, H, W, 3) in [0, 1] by the host's own linear map from FLUX's latents to colours."""
    space = space_of(latents.shape[1])
    layout = comfy.latent_formats.Flux2() if space is FLUX_2 else comfy.latent_formats.Flux()
    spread = layout.latent_rgb_factors_reshape or (lambda each: each)
    latents, sides = spread(latents.float().cpu()), [side * space.factor for side in latents.shape[2:]]
    colours = torch.einsum("nchw,ck->nkhw", latents, torch.tensor(layout.latent_rgb_factors))
    colours = colours + torch.tensor(layout.latent_rgb_factors_bias).reshape(1, 3, 1, 1)
    enlarged = torch.nn.functional.interpolate((colours + 1) / 2, size=sides, mode="bilinear")
    return enlarged.clamp(0, 1).permute(0, 2, 3, 1)
