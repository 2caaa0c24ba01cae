"""Memory Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import StageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class MemoryOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelMemoryOptions",
            display_name="Memory Options",
            category="FluxDuel/options",
            description="What both stages may take of the card's memory. Without this node each is planned for "
            "all that is free.",
            inputs=[
                *widgets(StageConfig, THEMES["memory"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["VRAM", "low memory", "block swap", "gradient checkpointing"]),
        )

    @classmethod
    def validate_inputs(cls, gradient_checkpointing: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
