"""What of FLUX.2 the host can do, by its version."""

from __future__ import annotations

from dataclasses import dataclass

import comfyui_version


@dataclass(frozen=True)
class Feature:
    """What a host can do from the version ``since`` on, in words."""

    words: str
    since: str


FLUX_2_DEV = Feature("FLUX.2 dev and its VAE", "0.3.72")
KLEIN = Feature("transformers of FLUX.2 klein", "0.9.0")
KLEIN_TEXT = Feature("FLUX.2 klein's text encoders (CLIPLoader of type flux2)", "0.9.2")
FUSED_LORA = Feature("FLUX.2 LoRAs of diffusers' names", "0.11.0")
NO_POOLED = Feature("prompts that have no pooled output beside them", "0.19.0")


def lacking(feature: Feature) -> str:
    """A sentence where this host is older than ``feature``; empty where it is not."""
    version = comfyui_version.__version__
    if _numbers(version) >= _numbers(feature.since):
        return ""
    return f"This is ComfyUI {version}: {feature.words} came with {feature.since}. Update ComfyUI."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3])
