"""What a FLUX.1 checkpoint on disk is: its layout, its sizes, its identity. Reads headers, not weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config import TINY_BASE
from ..failure_words import reason
from .families import flux1

TINY_BASE_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tiny_base"

_SINGLE_FILE_PREFIX = "model.diffusion_model."
_SINGLE_FILE_KEYS = (
    "img_in.weight",
    "txt_in.weight",
    "time_in.in_layer.weight",
    "vector_in.in_layer.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "single_blocks.0.linear1.weight",
    "final_layer.linear.weight",
)
_QUANTISED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", ".qweight", ".weight_scale_2")
_SINGLE_FILE_WIDTH = 3072
_SAMPLES, _SAMPLE_BYTES = 64, 4096


class BaseModelError(ValueError):
    """A checkpoint that cannot be the base: missing, damaged, or not FLUX.1. The message says what to do."""


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise BaseModelError(
            f"{path} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error


def weight_files(path: str) -> list[Path]:
    """The files that hold the weights, for a single file, a diffusers folder or the built-in base.

    Raises ``BaseModelError`` where nothing usable is there.
    """
    location = TINY_BASE_FOLDER / "transformer" if path == TINY_BASE else Path(path)
    if location.is_file():
        if location.suffix not in (".safetensors", ".sft"):
            raise BaseModelError(f"{location} is no safetensors file. FluxDuel loads .safetensors only.")
        return [location]
    if not location.exists():
        raise BaseModelError(f"{location} does not exist. Choose a FLUX.1 checkpoint that is on this machine.")
    if (location / "transformer" / "config.json").is_file():
        location = location / "transformer"
    files = sorted(location.glob("*.safetensors"))
    if not files or not (location / "config.json").is_file():
        raise BaseModelError(
            f"{location} is no diffusers transformer folder: it needs config.json and .safetensors files."
        )
    return files


def is_single_file(path: str) -> bool:
    """Whether ``path`` names one file, as against a diffusers folder or the built-in base."""
    return path != TINY_BASE and Path(path).is_file()


def fingerprint(path: str) -> str:
    """Identity of a checkpoint's content: sizes, headers and samples spread over each file (16 hex digits)."""
    digest = hashlib.blake2b(digest_size=8)
    for file in weight_files(path):
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}".encode() if path != TINY_BASE else str(size).encode())
        with open(file, "rb") as stream:
            for i in range(_SAMPLES):
                stream.seek(max(0, (size - _SAMPLE_BYTES) * i // (_SAMPLES - 1)))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def read_transformer_config(path: str) -> dict[str, Any]:
    """The arguments of diffusers' ``FluxTransformer2DModel`` for the checkpoint at ``path``.

    ``in_channels`` is 64 for a single file. A folder may hold a smaller base: any multiple of 4 up to 64, for a
    quarter as many latent channels.

    Raises ``BaseModelError`` for a file that is missing, damaged, quantised or not FLUX.1.
    """
    files = weight_files(path)
    config = _config_of_file(files[0]) if is_single_file(path) else _config_of_folder(files[0].parent)
    taken, most, patch = config["in_channels"], flux1.LATENT_CHANNELS * flux1.PATCH**2, flux1.PATCH**2
    allowed = [most] if is_single_file(path) else range(patch, most + 1, patch)
    # Filling and control add the channels of a mask or a second picture to those that are predicted.
    if taken not in allowed or config.get("out_channels") not in (None, taken):
        wanted = str(most) if is_single_file(path) else f"{most} (or a smaller multiple of {patch}, all predicted)"
        raise BaseModelError(
            f"{path} takes {taken} input channels, not {wanted}: a FLUX.1 variant for filling or control. Choose a "
            "text-to-image FLUX.1 (dev, schnell, Krea)."
        )
    return config


def _config_of_folder(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder / 'config.json'} cannot be read: {reason(error)}.") from error
    if config.get("_class_name", "FluxTransformer2DModel") != "FluxTransformer2DModel":
        raise BaseModelError(f"{folder} holds a {config['_class_name']}, not a FLUX.1 transformer.")
    config.setdefault("in_channels", flux1.LATENT_CHANNELS * flux1.PATCH**2)
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _config_of_file(file: Path) -> dict[str, Any]:
    shapes = {key.removeprefix(_SINGLE_FILE_PREFIX): shape for key, shape in _header(file).items()}
    if "double_stream_modulation_img.lin.weight" in shapes:
        raise BaseModelError(f"{file.name} is FLUX.2. FluxDuel trains FLUX.1: choose dev, schnell or Krea.")
    quantised = next((key for key in shapes if any(mark in key for mark in _QUANTISED)), None)
    if quantised is not None:
        raise BaseModelError(
            f"{file.name} is quantised with scales (key {quantised}). Choose the bf16 or the plain fp8 file."
        )
    missing = [key for key in _SINGLE_FILE_KEYS if key not in shapes]
    if missing:
        raise BaseModelError(
            f"{file.name} is no FLUX.1 checkpoint: key {missing[0]} is missing"
            + (f" (and {len(missing) - 1} more)." if len(missing) > 1 else ".")
            + " Choose a FLUX.1 transformer in ComfyUI's layout."
        )
    width = shapes["img_in.weight"][0]
    if width != _SINGLE_FILE_WIDTH:
        raise BaseModelError(f"{file.name} has width {width}; FLUX.1 in one file has {_SINGLE_FILE_WIDTH}.")
    return {
        "patch_size": 1,
        "in_channels": shapes["img_in.weight"][1],
        "num_layers": _count(shapes, "double_blocks."),
        "num_single_layers": _count(shapes, "single_blocks."),
        "attention_head_dim": 128,
        "num_attention_heads": width // 128,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": [16, 56, 56],
    }


def _count(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in shapes if key.startswith(prefix))
