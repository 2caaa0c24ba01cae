"""The settings of stage 2's discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..training.config import DiscriminatorConfig
from ..training.stages import discriminator_files
from . import host
from .sockets import DiscriminatorSocket
from .values import DiscriminatorValue, outside_inference_mode
from .widgets import configuration, supported, widgets

NEW = "new"
# Before continue_from, and after it: an option that is new one day takes the place of no other.
FIRST = (
    "architecture", "loss", "width", "learning_rate", "seed", "depth", "spectral_norm", "gradient_penalty", "beta1",
    "beta2", "weight_decay", "max_grad_norm",
)  # fmt: skip
THEN = (
    "r1", "r2", "penalty_sigma", "penalty_share", "centring", "lecam", "augmentation", "augmentation_probability",
    "mismatched_share", "replay_share", "taps",
)  # fmt: skip
SHOWN = ("architecture", "loss", "learning_rate", "seed", "r1", "augmentation")
FOLDED = tuple(name for name in (*FIRST, *THEN) if name not in SHOWN)


class LatentDiscriminator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLatentDiscriminator",
            display_name="Latent Discriminator",
            category="FluxDuel",
            description="The judge of the adversarial stage, the other half of the GAN. It looks at latents, before "
            "any VAE decodes them, and is trained by the stage it is connected to, from scratch or from where an "
            "earlier run left it.",
            inputs=[
                *widgets(DiscriminatorConfig, FIRST, FOLDED, optional=True),
                io.Combo.Input(
                    "continue_from",
                    options=[NEW, *host.discriminator_files()],
                    default=NEW,
                    optional=True,
                    tooltip="The discriminator that an earlier run of stage 2 left, to go on with. Architecture, "
                    "width, depth, spectral_norm and taps must be those of that run.",
                ),
                *widgets(DiscriminatorConfig, THEN, FOLDED, optional=True),
            ],
            outputs=[
                DiscriminatorSocket.Output(
                    "discriminator",
                    display_name="discriminator",
                    tooltip="The discriminator's settings, and its weights where it goes on from a file, for "
                    "Stage 2: Train LoRA with GAN.",
                )
            ],
            **supported(io.Schema, search_aliases=["GAN", "critic", "adversarial"]),
        )

    @classmethod
    def validate_inputs(cls, continue_from: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def fingerprint_inputs(cls, continue_from: str = NEW, **_: Any) -> str:
        return "" if continue_from == NEW else host.file_identity(_file(continue_from))

    @classmethod
    def execute(cls, continue_from: str = NEW, **options: Any) -> io.NodeOutput:
        config = configuration(DiscriminatorConfig, options)
        if continue_from == NEW:
            return io.NodeOutput(DiscriminatorValue(config))
        try:
            # Otherwise no network could be trained on with these tensors: the host runs nodes in inference mode.
            with outside_inference_mode():
                weights = discriminator_files.load(_file(continue_from), config)
        except discriminator_files.DiscriminatorFileError as error:
            raise ValueError(f"Latent Discriminator: continue_from {continue_from}: {error}") from error
        return io.NodeOutput(DiscriminatorValue(config, weights, continue_from))


def _file(label: str) -> Path:
    return host.choose(host.discriminator_files(), label, "Latent Discriminator: continue_from")
