"""Noise Level Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import StageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class NoiseOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelNoiseOptions",
            display_name="Noise Level Options",
            category="FluxDuel/options",
            description="At which noise levels, at which guidance and with which share of empty prompts both "
            "stages train.",
            inputs=[
                *widgets(StageConfig, THEMES["noise"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["timestep sampling", "sigma", "shift", "guidance"]),
        )

    @classmethod
    def validate_inputs(cls, timestep_sampling: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
