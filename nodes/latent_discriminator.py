"""The settings of stage 2's discriminator."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.config import DiscriminatorConfig
from .sockets import DiscriminatorSocket
from .widgets import configuration, supported, widgets


class LatentDiscriminator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLatentDiscriminator",
            display_name="Latent Discriminator",
            category="FluxDuel",
            description="The judge of the adversarial stage. It looks at latents, before any VAE decodes them, and is "
            "trained from scratch by the stage it is connected to.",
            inputs=widgets(
                DiscriminatorConfig, first=["architecture", "loss", "width", "learning_rate", "seed"]
            ),
            outputs=[
                DiscriminatorSocket.Output(
                    "discriminator",
                    display_name="discriminator",
                    tooltip="The discriminator's settings, for Train Adversarial Stage.",
                )
            ],
            **supported(io.Schema, search_aliases=["GAN", "critic", "adversarial"]),
        )

    @classmethod
    def execute(cls, **options: Any) -> io.NodeOutput:
        return io.NodeOutput(configuration(DiscriminatorConfig, options))
