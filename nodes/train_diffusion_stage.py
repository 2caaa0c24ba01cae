"""Stage 1 as a node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.config import DiffusionStageConfig
from ..training.data.real_latents import RealLatents
from ..training.lora.adapter import FluxLoRA
from ..training.runs.fingerprints import fingerprint
from ..training.runs.train_stages import train_diffusion_stage
from . import host
from .options.chain import stage_options
from .run_history import workflow_of
from .sockets import FluxLoRASocket, RealLatentsSocket, TrainingLogSocket
from .stage_run import run_stage
from .values import OptionsValue
from .widgets import configuration, supported, widgets


class TrainDiffusionStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelTrainDiffusionStage",
            display_name="Stage 1: Train LoRA",
            category="FluxDuel",
            description="Fine-tune FLUX on your pictures with the flow-matching loss, as for DreamBooth, a style or a "
            "concept. Cancel stops within one step; queue again to go on from there, also after a crash or a restart.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to start from. It is not changed."),
                RealLatentsSocket.Input("real_latents", tooltip="The encoded training pictures."),
                *widgets(
                    DiffusionStageConfig,
                    ["steps", "learning_rate", "batch_size", "seed", "preview_every"],
                    optional=True,
                ),
                stage_options(),
                FluxLoRASocket.Input(
                    "sampling_base",
                    optional=True,
                    tooltip="Draw previews on the base of this one, from Load FLUX LoRA: the sibling that the LoRA "
                    "will be used on, such as the distilled model of the same size. Its own LoRA does not count.",
                ),
            ],
            outputs=[
                FluxLoRASocket.Output(
                    "trained_lora", display_name="flux_lora", tooltip="The LoRA after this stage."
                ),
                TrainingLogSocket.Output(
                    "log", display_name="log", tooltip="The numbers of every update, for Plot Training Log."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            **supported(
                io.Schema,
                search_aliases=["fine-tune", "finetune", "DreamBooth", "train diffusion stage", "flow matching"],
            ),
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
        options: OptionsValue | None = None,
        sampling_base: FluxLoRA | None = None,
        **own: Any,
    ) -> io.NodeOutput:
        config = configuration(DiffusionStageConfig, OptionsValue.joined(options, own).values)
        result = run_stage(
            fingerprint("diffusion", flux_lora, real_latents, config),
            flux_lora,
            real_latents,
            lambda lora, data, **run: train_diffusion_stage(
                lora, data, config, sampling_base=sampling_base and sampling_base.base, **run
            ),
            node=str(cls.hidden.unique_id),
            workflow=workflow_of(cls.hidden.extra_pnginfo),
        )
        return io.NodeOutput(result.lora, result.log)
