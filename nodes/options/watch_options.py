"""Watch Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import AdversarialStageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class WatchOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelWatchOptions",
            display_name="Watch Options",
            category="FluxDuel/options",
            description="How a stage is watched: measurements on held-out pictures in both stages, and samples "
            "that stage 2 goes back by.",
            inputs=[
                *widgets(AdversarialStageConfig, THEMES["watch"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["validation", "held-out loss", "early stopping"]),
        )

    @classmethod
    def validate_inputs(cls, watch: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
