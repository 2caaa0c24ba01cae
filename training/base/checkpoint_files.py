"""What a checkpoint on disk is: its layout, its sizes, its identity. Reads headers, not weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..config import TINY_BASE
from ..failure_words import reason
from .errors import BaseModelError
from .families import FAMILIES, family_of
from .layouts import config_of, single_file_layout
from .tensor_files import SUFFIXES

__all__ = [
    "TINY_BASE_FOLDER",
    "BaseModelError",
    "fingerprint",
    "is_single_file",
    "read_transformer_config",
    "weight_files",
]

TINY_BASE_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tiny_base"

_SAMPLES, _SAMPLE_BYTES = 64, 4096


def weight_files(path: str) -> list[Path]:
    """The files that hold the weights, for a single file, a diffusers folder or the built-in base.

    Raises ``BaseModelError`` where nothing usable is there.
    """
    location = TINY_BASE_FOLDER / "transformer" if path == TINY_BASE else Path(path)
    if location.is_file():
        if location.suffix not in SUFFIXES:
            raise BaseModelError(f"{location} is no safetensors file. FluxDuel loads .safetensors and .gguf only.")
        return [location]
    if not location.exists():
        raise BaseModelError(f"{location} does not exist. Choose a FLUX checkpoint that is on this machine.")
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
    """diffusers' configuration of the transformer at ``path``; ``family_of`` tells its family by it.

    ``in_channels`` is the family's for a single file. A folder may hold a smaller FLUX.1: any multiple of 4 up to 64,
    for a quarter as many latent channels.

    Raises ``BaseModelError`` for a file that is missing, damaged, or of no family.
    """
    files = weight_files(path)
    config = config_of(single_file_layout(files[0])) if is_single_file(path) else _config_of_folder(files[0].parent)
    family = family_of(config)
    patch = family.space.patch**2
    taken, most = config["in_channels"], family.space.channels * patch
    allowed = [most] if is_single_file(path) or patch == 1 else range(patch, most + 1, patch)
    # Filling and control add the channels of a mask or a second picture to those that are predicted.
    if taken not in allowed or config.get("out_channels") not in (None, taken):
        wanted = f"{most} (or a smaller multiple of {patch}, all predicted)" if len(allowed) > 1 else str(most)
        raise BaseModelError(
            f"{path} takes {taken} input channels, not {wanted}: a {family.name} variant for filling or control. "
            f"Choose {family.model}."
        )
    return config


def _config_of_folder(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder / 'config.json'} cannot be read: {reason(error)}.") from error
    try:
        family = family_of(config)
    except KeyError as error:
        names = ", ".join(sorted(each.name for each in FAMILIES))
        raise BaseModelError(
            f"{folder} holds a {config['_class_name']}, which is no transformer that FluxDuel trains ({names})."
        ) from error
    # How weights are quantised is told by themselves.
    told = {key: value for key, value in config.items() if not key.startswith("_") and key != "quantization_config"}
    return {"_class_name": family.class_name, "in_channels": family.space.channels * family.space.patch**2} | told
