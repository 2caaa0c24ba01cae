"""Saving Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import StageConfig
from ...training.themes import THEMES
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class SavingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelSavingOptions",
            display_name="Saving Options",
            category="FluxDuel/options",
            description="How often both stages write a checkpoint to go on from, and which ones are kept.",
            inputs=[
                *widgets(StageConfig, THEMES["saving"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["checkpoint", "resume"]),
        )

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
