"""FluxDuel: what ComfyUI loads."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The pack's nodes, for the host's V3 loader. Imported here, so that the engine is usable without a host."""
    from .nodes import FluxDuelExtension

    return FluxDuelExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
