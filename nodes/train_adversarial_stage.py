"""Stage 2 as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.adversarial_stage import train_adversarial_stage
from ..training.config import AdversarialStageConfig, DiscriminatorConfig
from ..training.lora import FluxLoRA
from ..training.real_latents import RealLatents
from .sockets import DiscriminatorSocket, FluxLoRASocket, RealLatentsSocket, TrainingLogSocket
from .stage_run import run_stage
from .widgets import configuration, supported, widgets


class TrainAdversarialStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelTrainAdversarialStage",
            display_name="Train Adversarial Stage",
            category="FluxDuel",
            description="Stage 2: refine the LoRA against a discriminator that learns to tell real latents from the "
            "LoRA's. Cancel stops within one step and keeps what was trained in a file.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to start from, as a rule stage 1's."),
                RealLatentsSocket.Input(
                    "real_latents", tooltip="The encoded training pictures, which the discriminator takes for real."
                ),
                DiscriminatorSocket.Input("discriminator", tooltip="The discriminator's settings."),
                *widgets(
                    AdversarialStageConfig,
                    first=[
                        "steps",
                        "learning_rate",
                        "objective",
                        "adversarial_weight",
                        "diffusion_weight",
                        "adversarial_schedule",
                        "discriminator_updates",
                        "discriminator_warmup",
                        "renoise",
                        "batch_size",
                        "gradient_accumulation",
                        "seed",
                        "preview_every",
                    ],
                ),
            ],
            outputs=[
                FluxLoRASocket.Output(
                    "trained_lora", display_name="flux_lora", tooltip="The LoRA after this stage."
                ),
                TrainingLogSocket.Output(
                    "log", display_name="log", tooltip="The numbers of every step, for Plot Training Log."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **supported(io.Schema, search_aliases=["GAN", "discriminator", "stage 2"]),
        )

    @classmethod
    def execute(
        cls, flux_lora: FluxLoRA, real_latents: RealLatents, discriminator: DiscriminatorConfig, **options: Any
    ) -> io.NodeOutput:
        config = configuration(AdversarialStageConfig, options)
        result = run_stage(
            "adversarial",
            flux_lora,
            real_latents,
            lambda lora, data, **run: train_adversarial_stage(lora, data, discriminator, config, **run),
            node=str(cls.hidden.unique_id),
        )
        return io.NodeOutput(result.lora, result.log)
