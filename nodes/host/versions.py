"""What of FLUX.2 the host can do, by its version."""

from __future__ import annotations

import comfyui_version

# In words -> the release that has it.
DEV_TEXT = ("FLUX.2 dev's text encoder (CLIPLoader of type flux2)", "0.3.72")
KLEIN_TEXT = ("FLUX.2 klein's text encoders (CLIPLoader of type flux2)", "0.9.2")


def lacking() -> str:
    """A sentence that names what of FLUX.2's text encoders this host is too old for; empty where it has them all."""
    version = comfyui_version.__version__
    late = [
        f"{words} came with {since}" for words, since in (DEV_TEXT, KLEIN_TEXT) if _numbers(version) < _numbers(since)
    ]
    return f"This is ComfyUI {version}: {', '.join(late)}. Update ComfyUI." if late else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3])
