"""Stage 2 as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.config import AdversarialStageConfig
from ..training.data.real_latents import RealLatents
from ..training.lora.adapter import FluxLoRA
from ..training.lora.usual_cfg import advice_for
from ..training.runs.fingerprints import fingerprint
from ..training.runs.train_stages import train_adversarial_stage
from ..training.stages.discriminator_files import DiscriminatorFileError
from ..training.stages.stage import StageResult
from . import host
from .options.chain import stage_options
from .run_history import workflow_of
from .sockets import DiscriminatorSocket, FluxLoRASocket, RealLatentsSocket, TrainingLogSocket
from .stage_run import run_stage
from .values import DiscriminatorValue, OptionsValue
from .widgets import configuration, supported, widgets

THEN = ("seed", "batch_size", "preview_every")


class TrainAdversarialStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelTrainAdversarialStage",
            display_name="Stage 2: Train LoRA with GAN",
            category="FluxDuel",
            description="The adversarial stage: fine-tune the LoRA further against a discriminator that learns to tell "
            "real latents from the LoRA's. Cancel stops within one step; queue again to go on from there, also after a "
            "crash or a restart.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to start from, as a rule stage 1's."),
                RealLatentsSocket.Input(
                    "real_latents", tooltip="The encoded training pictures, which the discriminator takes for real."
                ),
                DiscriminatorSocket.Input(
                    "discriminator", tooltip="The discriminator's settings, from Latent Discriminator."
                ),
                *widgets(
                    AdversarialStageConfig,
                    ["target", "target_steps", "steps", "adversarial_weight", "learning_rate", *THEN],
                    folded=THEN,
                    optional=True,
                ),
                stage_options(),
                FluxLoRASocket.Input(
                    "sampling_base",
                    optional=True,
                    tooltip="Draw previews and watch on the base of this one, from Load FLUX LoRA: the sibling that "
                    "the LoRA will be used on, such as the distilled model of the same size. Its own LoRA does not "
                    "count.",
                ),
            ],
            outputs=[
                FluxLoRASocket.Output(
                    "trained_lora", display_name="flux_lora", tooltip="The LoRA after this stage."
                ),
                TrainingLogSocket.Output(
                    "log", display_name="log", tooltip="The numbers of every update, for Plot Training Log."
                ),
                io.String.Output(
                    "how_to_sample",
                    display_name="how_to_sample",
                    tooltip="With which sampler, scheduler, number of steps and strength to sample, which phrase or "
                    "guidance tells two samplers apart, and which state was delivered.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            **supported(io.Schema, search_aliases=["train adversarial stage", "discriminator", "finetune", "sharpen"]),
        )

    @classmethod
    def validate_inputs(cls, flux_lora: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return host.reopened()

    @classmethod
    def execute(
        cls,
        flux_lora: FluxLoRA,
        real_latents: RealLatents,
        discriminator: DiscriminatorValue,
        options: OptionsValue | None = None,
        sampling_base: FluxLoRA | None = None,
        **own: Any,
    ) -> io.NodeOutput:
        config = configuration(AdversarialStageConfig, OptionsValue.joined(options, own).values)

        sibling = sampling_base and sampling_base.base

        def train(lora: FluxLoRA, data: RealLatents, **run: Any) -> StageResult:
            try:
                return train_adversarial_stage(
                    lora,
                    data,
                    discriminator.config,
                    config,
                    discriminator_weights=discriminator.weights,
                    sampling_base=sibling,
                    **run,
                )
            except DiscriminatorFileError as error:
                raise ValueError(f"Latent Discriminator: continue_from {discriminator.source}: {error}") from error

        node = str(cls.hidden.unique_id)
        wanted = fingerprint(
            "adversarial",
            flux_lora,
            real_latents,
            config,
            discriminator.config,
            discriminator.weights,
            sampling_base=sibling,
        )
        workflow = workflow_of(cls.hidden.extra_pnginfo)
        result = run_stage(wanted, flux_lora, real_latents, train, node=node, workflow=workflow)
        # Where the LoRA was sampled with, the last note says which state is delivered.
        watched = any("score" in record for record in result.log.records)
        delivered = [text for _, text in result.log.notes[-1:] if watched]
        advice = "\n".join([advice_for(result.lora)[0], *delivered])
        return io.NodeOutput(result.lora, result.log, advice, ui=host.text_ui(advice))
