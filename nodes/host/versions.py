"""What of FLUX.2 the host can do, by its version."""

from __future__ import annotations

import comfyui_version

# In words -> the release that has it.
DEV_TEXT = ("FLUX.2 dev's text encoder (CLIPLoader of type flux2)", "0.3.72")
# Before, the host takes every FLUX.2 for as wide as dev.
KLEIN = ("FLUX.2 klein's transformer (Load Diffusion Model)", "0.9.0")
KLEIN_TEXT = ("FLUX.2 klein's text encoders (CLIPLoader of type flux2)", "0.9.2")


def lacking(*parts: tuple[str, str]) -> str:
    """A sentence that names which of ``parts``, rows from above, this host is too old for; empty where none."""
    version = comfyui_version.__version__
    late = [f"{words} came with {since}" for words, since in parts if _numbers(version) < _numbers(since)]
    return f"This is ComfyUI {version}: {', '.join(late)}. Update ComfyUI." if late else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3])
