"""The settings of stage 2's discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..training import discriminator_files
from ..training.config import DiscriminatorConfig
from . import host
from .sockets import DiscriminatorSocket
from .values import DiscriminatorValue
from .widgets import configuration, supported, widgets

NEW = "new"
# Saved graphs hold values by position: what is new goes to the end.
ORDER = (
    "architecture", "loss", "width", "learning_rate", "seed", "depth", "spectral_norm", "gradient_penalty", "beta1",
    "beta2", "weight_decay", "max_grad_norm", "r1", "r2", "penalty_sigma", "penalty_share", "centring", "lecam",
    "augmentation", "augmentation_probability", "mismatched_share", "replay_share", "taps",
)  # fmt: skip


class LatentDiscriminator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLatentDiscriminator",
            display_name="Latent Discriminator",
            category="FluxDuel",
            description="The judge of the adversarial stage. It looks at latents, before any VAE decodes them, and is "
            "trained by the stage it is connected to, from scratch or from where an earlier run left it.",
            inputs=[
                *widgets(DiscriminatorConfig, first=ORDER),
                io.Combo.Input(
                    "continue_from",
                    options=[NEW, *host.discriminator_files()],
                    default=NEW,
                    tooltip="The discriminator that an earlier run of stage 2 left, to go on with. Architecture, "
                    "width, depth, spectral_norm and taps must be those of that run.",
                ),
            ],
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
    def fingerprint_inputs(cls, continue_from: str = NEW, **_: Any) -> str:
        return "" if continue_from == NEW else host.file_identity(_file(continue_from))

    @classmethod
    def execute(cls, continue_from: str = NEW, **options: Any) -> io.NodeOutput:
        config = configuration(DiscriminatorConfig, options)
        if continue_from == NEW:
            return io.NodeOutput(DiscriminatorValue(config))
        try:
            weights = discriminator_files.load(_file(continue_from), config)
        except discriminator_files.DiscriminatorFileError as error:
            raise ValueError(f"Latent Discriminator: continue_from: {error}") from error
        return io.NodeOutput(DiscriminatorValue(config, weights))


def _file(label: str) -> Path:
    return host.choose(host.discriminator_files(), label, "Latent Discriminator: continue_from")
