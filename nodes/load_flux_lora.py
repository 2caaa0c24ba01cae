"""The start of a graph: which FLUX, and a LoRA on it."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..training.base.base_model import BaseReference
from ..training.config import AUTO, PRECISIONS, LoRAConfig
from ..training.lora import adapter as adapters
from . import host
from .sockets import FluxLoRASocket
from .values import outside_inference_mode
from .widgets import configuration, supported, widgets

NO_LORA = "none"

log = logging.getLogger(__name__)


class LoadFluxLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLoadFluxLoRA",
            display_name="Load FLUX LoRA",
            category="FluxDuel",
            description="Choose a FLUX.1 checkpoint and put the LoRA to train on it: a fresh one, or one from a file "
            "to continue from. Nothing is loaded into memory here; the training nodes load the base when they start.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(host.checkpoints()),
                    default=host.TINY_BASE_LABEL,
                    tooltip="The FLUX.1 transformer: a file in models/diffusion_models or models/checkpoints, a "
                    "GGUF file where ComfyUI-GGUF lists it, a pipeline in models/diffusers, or the tiny base that "
                    "comes with this pack, which trains on a CPU.",
                ),
                io.Combo.Input(
                    "precision",
                    options=[*PRECISIONS, AUTO],
                    default=AUTO,
                    tooltip="Number format of the frozen base on the card. auto: bf16 where it fits beside what a "
                    "stage computes, else int8_convrot, with as many blocks streamed as the card asks for. bf16: 22 "
                    "GB for FLUX.1. int8: 12 GB, with a scale for each row; int8_convrot: the same, with inputs "
                    "rotated so that outliers cost less. fp32 is for the tiny base and for comparisons.",
                ),
                *widgets(LoRAConfig, ["rank", "alpha", "targets", "seed"], folded=["seed"]),
                io.Combo.Input(
                    "lora",
                    options=[NO_LORA, *host.lora_files()],
                    default=NO_LORA,
                    tooltip="A LoRA file to continue from, in this pack's, diffusers' or kohya's format. Rank, alpha "
                    "and target layers then come from the file, and those widgets are ignored.",
                ),
                *widgets(LoRAConfig, ["target_regex"], folded=["target_regex"]),
            ],
            outputs=[
                FluxLoRASocket.Output(
                    "flux_lora",
                    display_name="flux_lora",
                    tooltip="The LoRA and the base it belongs to, for the training, sampling and saving nodes.",
                )
            ],
            **supported(io.Schema, search_aliases=["train FLUX", "FLUX LoRA training", "continue LoRA"]),
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, lora: str = NO_LORA, **_: Any) -> str:
        base = BaseReference(host.choose(host.checkpoints(), checkpoint, "Load FLUX LoRA: checkpoint"))
        if lora == NO_LORA:
            return base.fingerprint()
        file = host.choose(host.lora_files(), lora, "Load FLUX LoRA: lora")
        return base.fingerprint() + host.file_identity(file)

    @classmethod
    def execute(cls, checkpoint: str, precision: str, lora: str, **options: Any) -> io.NodeOutput:
        path = host.choose(host.checkpoints(), checkpoint, "Load FLUX LoRA: checkpoint")
        base = BaseReference(path, precision)
        config = configuration(LoRAConfig, options)
        with outside_inference_mode():
            if lora == NO_LORA:
                return io.NodeOutput(adapters.create(base, config))
            loaded = adapters.load_file(host.choose(host.lora_files(), lora, "Load FLUX LoRA: lora"), base)
        log.info(
            "Continuing from %s: rank %d, alpha %g, targets %s, from the file, not from the node.",
            lora,
            loaded.config.rank,
            loaded.config.alpha,
            loaded.config.targets,
        )
        return io.NodeOutput(loaded)
