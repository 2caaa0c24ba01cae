"""Preview Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import StageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class PreviewOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelPreviewOptions",
            display_name="Preview Options",
            category="FluxDuel/options",
            description="How the preview pictures of both stages are sampled.",
            inputs=[
                *widgets(StageConfig, THEMES["preview"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["sample pictures", "preview"]),
        )

    @classmethod
    def validate_inputs(cls, preview_sampler: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
