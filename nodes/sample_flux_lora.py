"""Pictures from the LoRA by the pack's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..training.base.families import PIXELS_PER_TOKEN
from ..training.evidence.sample_lora import latent_side, sample_lora
from ..training.lora.adapter import FluxLoRA
from ..training.lora.sampling_advice import departures
from ..training.lora.usual_cfg import AS_USUAL, guided
from ..training.lora.value import base_family
from ..training.step_counts import step_counts
from . import host
from .conditioning import ignored_in, prompt_of
from .fits import check_prompt
from .sampling import cfg_input, guidance_input, on_device, sampler_input
from .sockets import FluxLoRASocket
from .values import owned
from .widgets import supported

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
                guidance_input(" A Flux Guidance node before this one has no effect.", folded=True),
                sampler_input(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt, for a cfg other than 1: what pictures are led away from. CLIP Text "
                    "Encode of an empty text is usual.",
                ),
                cfg_input("negative"),
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
        negative: Sequence[Any] | None = None,
        cfg: float = AS_USUAL,
    ) -> io.NodeOutput:
        counts = step_counts(steps, f"{NODE}: steps")
        space = base_family(flux_lora.base).space
        latent_height = latent_side(height, space, f"{NODE}: height")
        latent_width = latent_side(width, space, f"{NODE}: width")
        prompt_embeds, pooled = prompt_of(conditioning, f"{NODE}: conditioning", space)
        check_prompt(flux_lora.base, prompt_embeds, pooled, f"{NODE}: conditioning")
        given, away = {"conditioning": conditioning}, None
        if guided(flux_lora, counts, cfg) and negative is None:
            raise ValueError(
                f"{NODE}: {flux_lora.base.name} is sampled with a cfg other than 1, which takes a negative prompt, and "
                "negative is not connected. Connect CLIP Text Encode, of an empty text if there is nothing to be led "
                "away from; or set cfg to 1."
            )
        if negative is not None:
            given["negative"] = negative
            away = prompt_of(negative, f"{NODE}: negative", space)
            check_prompt(flux_lora.base, *away, f"{NODE}: negative")
        latents = on_device(
            cls,
            sample_lora,
            owned(flux_lora),
            [(prompt_embeds, pooled)],
            height=latent_height,
            width=latent_width,
            step_counts=counts,
            seeds=range(seed, seed + count),
            guidance=guidance,
            cfg=cfg,
            negative=away,
            solver=sampler,
        )
        latents = space.denormalise(latents.flatten(0, 2))
        doubts = [
            *ignored_in(given),
            *departures(flux_lora.provenance, sampler=sampler, step_counts=counts, cfg=cfg or 1.0),
        ]
        warnings = "\n".join(f"Warning: {sentence}" for sentence in doubts)
        return io.NodeOutput({"samples": latents}, ui=host.text_ui(warnings) if warnings else None)
