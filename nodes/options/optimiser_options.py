"""Optimiser Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import StageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined


class OptimiserOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelOptimiserOptions",
            display_name="Optimiser Options",
            category="FluxDuel/options",
            description="How the LoRA is optimised, in both stages: accumulation, course of the learning rate, "
            "weight decay, clipping and the running average.",
            inputs=[
                *widgets(StageConfig, THEMES["optimiser"], optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["optimizer", "learning rate schedule", "AdamW", "EMA"]),
        )

    @classmethod
    def validate_inputs(cls, lr_schedule: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
