"""Which files a headless run's encoders are read from, and that they are there and FLUX.1's."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..base.families.family import Family
from ..base.families.latent_space import FLUX_1
from ..config import EncodersConfig
from ..failure_words import reason
from .other_vaes import BY_CHANNELS, BY_CLASS, BY_KEY, whose_scale

_COMPLETE = "Download that part of {} in diffusers' layout, or set encoders.folder to a complete one."
_TOKENIZER_FILES = {
    "tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "tokenizer_2": (("tokenizer.json",), ("spiece.model",)),
}


class EncodersError(ValueError):
    """VAE or text encoders that are missing, damaged or not FLUX.1's. The message names the path and the option."""


def encoders_folder(config: EncodersConfig, checkpoint: str, family: Family) -> Path | None:
    """The folder of ``family`` in diffusers' layout that ``config`` names, or that the base is in.

    Raises ``EncodersError`` where the one that is named is no folder.
    """
    if config.folder:
        folder = Path(config.folder)
        if not folder.is_dir():
            raise EncodersError(
                f"encoders.folder: {folder} is no folder. Set it to a folder of {family.name} in diffusers' layout "
                "that is on this machine."
            )
        return folder
    base = Path(checkpoint)
    # A base may be named by its transformer folder too; the encoders lie beside that.
    for folder in (base, base.parent) if base.is_dir() else ():
        if all((folder / part).is_dir() for part in family.text_parts):
            return folder
    return None


def text_files(folder: Path) -> list[Path]:
    """All files that the encoding of a caption depends on. Raises ``EncodersError`` where one is missing."""
    files = []
    for part, kind in (("text_encoder", "clip_text_model"), ("text_encoder_2", "t5")):
        files += model_files(folder, part, None, "FLUX.1")
        _check_kind(folder / part, kind)
    for part, ways in _TOKENIZER_FILES.items():
        if not any(all((folder / part / name).is_file() for name in names) for names in ways):
            raise EncodersError(
                f"encoders.folder: {folder / part} holds no tokenizer: it needs "
                f"{' or '.join(' and '.join(names) for names in ways)}. {_COMPLETE.format('FLUX.1')}"
            )
        files += sorted(path for path in (folder / part).iterdir() if path.is_file())
    return files


def _check_kind(folder: Path, expected: str) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise EncodersError(damaged(folder, f"a model of the kind {expected}", error)) from error
    if kind is not None and kind != expected:
        raise EncodersError(
            f"encoders.folder: {folder} holds a model of the kind {kind}; FLUX.1 has {expected} there (CLIP-L in "
            "text_encoder, T5-XXL in text_encoder_2). The folder is another model's: set the option to a FLUX.1."
        )


def model_files(folder: Path, part: str, other: str | None, family: str) -> list[Path]:
    """config.json and weights of one model of ``family``. ``other`` is the option that could name it instead."""
    location = folder / part
    weights = sorted(location.glob("*.safetensors"))
    if not weights or not (location / "config.json").is_file():
        lack = "config.json" if weights else "a .safetensors file"
        advice = f" Or name it by {other}." if other else ""
        raise EncodersError(f"encoders.folder: {location} lacks {lack}. {_COMPLETE.format(family)}{advice}")
    return [location / "config.json", *weights]


def vae_file(path: str) -> Path:
    file = Path(path)
    if not file.is_file() or file.suffix not in (".safetensors", ".sft"):
        raise EncodersError(
            f"encoders.vae: {file} is no .safetensors file on this machine. Name FLUX.1's ae.safetensors, or leave the "
            "option empty to take the VAE in encoders.folder."
        )
    try:
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
            other = next((whose for key, whose in BY_KEY.items() if key in names), None)
            channels = None if other else weights.get_slice("decoder.conv_in.weight").get_shape()[1]
    except (OSError, SafetensorError) as error:
        raise EncodersError(damaged(file, "FLUX.1's VAE", error)) from error
    if other:
        raise EncodersError(_not_flux(file, f"is {other}"))
    _check_channels(file, channels)
    return file


def check_vae_config(folder: Path) -> None:
    """Raises ``EncodersError`` where the VAE's own configuration says that it is another model's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, channels, scale = (config.get(key) for key in ("_class_name", "latent_channels", "scaling_factor"))
    except (OSError, ValueError, AttributeError) as error:
        raise EncodersError(damaged(folder, "FLUX.1's VAE", error)) from error
    if kind in BY_CLASS:
        raise EncodersError(_not_flux(folder, f"is {BY_CLASS[kind]}"))
    _check_channels(folder, channels)
    # Stable Diffusion 3's has FLUX.1's very build. Configurations of old may leave the scale out.
    if isinstance(scale, int | float) and not math.isclose(scale, FLUX_1.scale, rel_tol=0.01):
        raise EncodersError(_not_flux(folder, f"scales latents by {scale:g}, as {whose_scale(scale)} does"))


def _check_channels(path: Path, channels: object) -> None:
    if channels != FLUX_1.channels:
        whose = BY_CHANNELS.get(channels)
        as_whose = f", as {whose} does" if whose else ""
        raise EncodersError(_not_flux(path, f"makes latents of {channels} channels{as_whose}"))


def _not_flux(path: Path, fault: str) -> str:
    return (
        f"{_option_of(path)}: the VAE {path} {fault}; FLUX.1's makes latents of {FLUX_1.channels} channels and "
        f"scales them by {FLUX_1.scale}. Set encoders.folder to a FLUX.1, or encoders.vae to its ae.safetensors."
    )


def damaged(path: Path, what: str, error: object) -> str:
    why = reason(error) if isinstance(error, Exception) else error
    return (
        f"{_option_of(path)}: {path} could not be loaded as {what}: {why}. Download it again, or choose another one."
    )


def _option_of(path: Path) -> str:
    return "encoders.vae" if path.is_file() else "encoders.folder"
