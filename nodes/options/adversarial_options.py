"""Adversarial Options as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import AdversarialStageConfig
from ...training.themes import THEMES
from .. import host
from ..values import OptionsValue
from ..widgets import supported, widgets
from .chain import before, joined

FOLDED = (
    "adversarial_weight_end", "gradient_ratio", "adversarial_ramp", "diffusion_schedule", "diffusion_weight_end",
    "discriminator_ratio", "beta1", "beta2",
)  # fmt: skip


class AdversarialOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelAdversarialOptions",
            display_name="Adversarial Options",
            category="FluxDuel/options",
            description="Stage 2: what its loss is made of, the course of the weights, and how the LoRA and the "
            "discriminator take turns.",
            inputs=[
                *widgets(AdversarialStageConfig, THEMES["adversarial"], FOLDED, optional=True),
                before(),
            ],
            outputs=[joined()],
            **supported(io.Schema, search_aliases=["GAN", "loss weights", "hybrid objective"]),
        )

    @classmethod
    def validate_inputs(cls, balance: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, options: OptionsValue | None = None, **own: Any) -> io.NodeOutput:
        return io.NodeOutput(OptionsValue.joined(options, own))
