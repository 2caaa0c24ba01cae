"""FLUX.2's VAE from a folder in diffusers' layout, or from a file of weights alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..base.families.flux2 import FLUX2
from ..base.families.latent_space import FLUX_2
from .encoder_files import EncodersError, damaged
from .other_vaes import BY_CLASS, BY_KEY

CLASS = "AutoencoderKLFlux2"
# Pixels of the VAE's own latents along one side of those that the transformer takes.
PATCH = 2
_NORMALISER, _LATENTS_IN, _COUNTER = "bn.running_mean", "decoder.conv_in.weight", "bn.num_batches_tracked"
# Where black-forest-labs' names have two layers that diffusers has beside encoder and decoder.
_MOVED = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}


def check_vae_file(path: str) -> Path:
    """The file of the VAE. Raises ``EncodersError`` where it is none, or another model's."""
    file = Path(path)
    if not file.is_file() or file.suffix not in (".safetensors", ".sft"):
        raise EncodersError(
            f"encoders.vae: {file} is no .safetensors file on this machine. Name FLUX.2's {FLUX_2.file}, or leave the "
            "option empty to take the VAE in encoders.folder."
        )
    try:
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise EncodersError(damaged(file, "FLUX.2's VAE", error)) from error
    if not {_NORMALISER, _LATENTS_IN} <= names:
        others = (whose for key, whose in BY_KEY.items() if key in names and key != _NORMALISER)
        whose = next(others, "another model's, such as FLUX.1's")
        raise EncodersError(
            f"encoders.vae: the VAE {file} is {whose}. Name FLUX.2's {FLUX_2.file}, or set encoders.folder to a FLUX.2."
        )
    return file


def check_vae_folder(folder: Path) -> None:
    """Raises ``EncodersError`` where the VAE's own configuration says that it is another model's."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise EncodersError(damaged(folder, "FLUX.2's VAE", error)) from error
    if kind != CLASS:
        whose = BY_CLASS.get(kind, "another model's, such as FLUX.1's")
        raise EncodersError(
            f"encoders.folder: the VAE {folder} is {whose} ({kind}); FLUX.2's is {CLASS}. Set encoders.folder to a "
            f"FLUX.2, or encoders.vae to its {FLUX_2.file}."
        )


class Flux2Vae(nn.Module):
    """Between pictures in [-1, 1] and latents as the transformer takes them, in fp32."""

    def __init__(self, file: Path, folder: Path | None) -> None:
        """``folder``: where it is one of diffusers', else ``file`` has all weights. Raises ``EncodersError``."""
        super().__init__()
        self.network = _load(file, folder).eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        """(1, 3, H, W) in [-1, 1] -> the posterior's mode, patched and normalised (1, 128, H/16, W/16)."""
        # Channels of a patch: the latent's own, then row and column in the patch.
        patched = nn.functional.pixel_unshuffle(self.network.encode(pixels).latent_dist.mode(), PATCH)
        mean, deviation = self._statistics()
        return (patched - mean) / deviation

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse: (1, 128, h, w) -> (1, 3, 16h, 16w) in [-1, 1]."""
        mean, deviation = self._statistics()
        return self.network.decode(nn.functional.pixel_shuffle(latents * deviation + mean, PATCH)).sample

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (1, 128, 1, 1) of patched latents."""
        norm = self.network.bn
        shape = (1, -1, 1, 1)
        variance = norm.running_var.view(shape) + self.network.config.batch_norm_eps
        return norm.running_mean.view(shape), variance.sqrt()


def _load(file: Path, folder: Path | None) -> nn.Module:
    kind = _vae_class()
    try:
        if folder is not None:
            vae = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
        else:
            vae = _from_file(kind, file)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise EncodersError(damaged(folder or file, "FLUX.2's VAE", error)) from error
    tensors = [*vae.named_parameters(), *vae.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise EncodersError(
            damaged(folder or file, "FLUX.2's VAE", f"{len(empty)} weights are missing, the first is {empty[0]}")
        )
    return vae


def _vae_class() -> Any:
    FLUX2.transformer_class()
    import diffusers

    return getattr(diffusers, CLASS)


def _from_file(kind: Any, file: Path) -> nn.Module:
    """The VAE in a file with black-forest-labs' names, which ComfyUI has too, or diffusers'."""
    weights = {_moved(name): weight.float() for name, weight in load_file(file).items()}
    vae = kind(**_sizes(weights))
    if "encoder.down_blocks.0.resnets.0.conv1.weight" not in weights:
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        statistics = {name: weight for name, weight in weights.items() if name.startswith("bn.")}
        weights = {**convert_ldm_vae_checkpoint(weights, vae.config), **statistics}
    missing = [name for name in vae.load_state_dict(weights, strict=False).missing_keys if name != _COUNTER]
    if missing:
        raise EncodersError(
            damaged(file, "FLUX.2's VAE", f"{len(missing)} weights are missing, the first is {missing[0]}")
        )
    return vae


def _moved(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in _MOVED.items() if name.startswith(old)), name)


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Channels of encoder and decoder, of which there is a small one; the rest is as diffusers has it by default."""
    encoder, decoder = weights["encoder.conv_in.weight"].shape[0], weights[_LATENTS_IN].shape[0] // 4
    return {
        "latent_channels": weights[_LATENTS_IN].shape[1],
        "block_out_channels": tuple(encoder * times for times in (1, 2, 4, 4)),
        "decoder_block_out_channels": tuple(decoder * times for times in (1, 2, 4, 4)),
    }
