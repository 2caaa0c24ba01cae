"""Pictures from the LoRA by the pack's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..training.base.base_model import BaseLoader
from ..training.base.families import PIXELS_PER_TOKEN
from ..training.evidence.sample_lora import latent_side, sample_lora
from ..training.lora.adapter import FluxLoRA
from ..training.lora.sampling_advice import departures
from ..training.lora.value import base_family
from ..training.step_counts import step_counts
from . import host
from .conditioning import ignored_in, prompt_of
from .fits import check_prompt
from .sockets import FluxLoRASocket
from .values import owned
from .widgets import sampler_input, supported

NODE = "Sample FLUX LoRA"


class SampleFluxLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": PIXELS_PER_TOKEN, "max": 4096, "step": PIXELS_PER_TOKEN}
        return io.Schema(
            node_id="FluxDuelSampleFluxLoRA",
            display_name=NODE,
            category="FluxDuel",
            description="Sample with the LoRA on its own base, for one or more numbers of steps. Pictures of the same "
            "place in the batch start from the same noise, so that LoRAs and step counts can be compared.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to sample with."),
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt, from CLIP Text Encode with the base's own text encoder."
                ),
                io.Int.Input("width", **side, tooltip="Width of the pictures in pixels, a multiple of 16."),
                io.Int.Input("height", **side, tooltip="Height of the pictures in pixels, a multiple of 16."),
                io.String.Input(
                    "steps",
                    default="25",
                    tooltip="Number of sampling steps. Several, as in 1, 4, 25, give a row of pictures for each.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures for each number of steps, from seeds seed, seed + 1, ...",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 65,
                    control_after_generate=False,
                    tooltip="Seed of the first picture's noise.",
                ),
                io.Float.Input(
                    "guidance",
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=False,
                    tooltip="FLUX-dev's guidance embedding. Ignored by bases without one. A Flux Guidance node before "
                    "this one has no effect.",
                ),
                sampler_input(),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="LATENT",
                    tooltip="The latents, by number of steps and then by seed, for VAE Decode.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            **supported(io.Schema, search_aliases=["FLUX sampler", "preview LoRA"]),
        )

    @classmethod
    def validate_inputs(cls, steps: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(
        cls,
        flux_lora: FluxLoRA,
        conditioning: Sequence[Any],
        width: int,
        height: int,
        steps: str,
        count: int,
        seed: int,
        guidance: float,
        sampler: str,
    ) -> io.NodeOutput:
        counts = step_counts(steps, f"{NODE}: steps")
        space = base_family(flux_lora.base).space
        latent_height = latent_side(height, space, f"{NODE}: height")
        latent_width = latent_side(width, space, f"{NODE}: width")
        prompt_embeds, pooled = prompt_of(conditioning, f"{NODE}: conditioning", space)
        check_prompt(flux_lora.base, prompt_embeds, pooled, f"{NODE}: conditioning")
        progress = host.Progress(str(cls.hidden.unique_id))

        def sample_all(device: torch.device, load: BaseLoader) -> Tensor:
            return sample_lora(
                owned(flux_lora),
                [(prompt_embeds, pooled)],
                height=latent_height,
                width=latent_width,
                step_counts=counts,
                seeds=range(seed, seed + count),
                guidance=guidance,
                device=device,
                after_step=progress.update_or_stop,
                solver=sampler,
                load=load,
            )

        latents = space.denormalise(host.with_device(sample_all).flatten(0, 2))
        doubts = [
            *ignored_in({"conditioning": conditioning}),
            *departures(flux_lora.provenance, sampler=sampler, step_counts=counts),
        ]
        warnings = "\n".join(f"Warning: {sentence}" for sentence in doubts)
        return io.NodeOutput({"samples": latents}, ui=host.text_ui(warnings) if warnings else None)
