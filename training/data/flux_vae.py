"""FLUX.1's VAE from a folder in diffusers' layout, or from a file of weights alone."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError

from ..base.families.latent_space import FLUX_1
from ..base.single_files import load_single_file
from .encoder_files import EncodersError, damaged

# Of FLUX.1's ae.safetensors, which holds weights alone.
_CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": FLUX_1.channels,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": FLUX_1.scale,
    "shift_factor": FLUX_1.shift,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


def load_vae(file: Path, folder: Path | None) -> AutoencoderKL:
    try:
        if folder is not None:
            vae = AutoencoderKL.from_pretrained(
                folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        else:
            vae = load_single_file(AutoencoderKL, file, _CONFIG, torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise EncodersError(damaged(folder or file, "FLUX.1's VAE", error)) from error
    empty = [name for name, weight in vae.named_parameters() if weight.is_meta]
    if empty:
        raise EncodersError(
            damaged(folder or file, "FLUX.1's VAE", f"{len(empty)} weights are missing, the first is {empty[0]}")
        )
    return vae
