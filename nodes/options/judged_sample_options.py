"""Judged Sample Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import AdversarialStageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined

FOLDED = ("jump_renoise_mean", "outside_share", "outside_weight")


class JudgedSampleOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelJudgedSampleOptions",
            display_name="Judged Sample Options",
            category="FluxDuel/options",
            description="Stage 2: which samples of the LoRA the discriminator judges, and at which noise level it "
            "sees them.",
            inputs=[
                *widgets(AdversarialStageConfig, THEMES["judged_sample"], folded=FOLDED, optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["GAN", "renoise", "few steps"]),
        )

    @classmethod
    def validate_inputs(cls, renoise: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
