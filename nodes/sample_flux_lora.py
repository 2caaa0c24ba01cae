"""Pictures from the LoRA by the pack's own sampler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..training.base.base_model import load_base
from ..training.base.families import flux1
from ..training.base.sampler import sample
from ..training.lora import adapter as adapters
from ..training.lora.adapter import FluxLoRA
from . import host
from .fits import check_prompt
from .sockets import FluxLoRASocket
from .values import owned
from .widgets import supported

# As many pictures go through the base at once as fill one picture of 1024 x 1024: more gains no speed there.
TOKENS_AT_ONCE = 4096


class SampleFluxLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": flux1.PIXELS_PER_TOKEN, "max": 4096, "step": flux1.PIXELS_PER_TOKEN}
        return io.Schema(
            node_id="FluxDuelSampleFluxLoRA",
            display_name="Sample FLUX LoRA",
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
    def validate_inputs(cls, steps: str | None = None) -> bool | str:
        if steps is None:
            return True
        try:
            step_counts(steps)
        except ValueError as error:
            return str(error)
        return True

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
    ) -> io.NodeOutput:
        counts = step_counts(steps)
        for name, side in (("width", width), ("height", height)):
            if side % flux1.PIXELS_PER_TOKEN:
                raise ValueError(
                    f"Sample FLUX LoRA: {name} must be a multiple of {flux1.PIXELS_PER_TOKEN}, got {side}."
                )
        prompt_embeds, pooled = host.prompt_of(conditioning, "Sample FLUX LoRA: conditioning")
        check_prompt(flux_lora.base, prompt_embeds, pooled, "Sample FLUX LoRA: conditioning")
        latent_height, latent_width = height // flux1.VAE_FACTOR, width // flux1.VAE_FACTOR
        seeds = range(seed, seed + count)
        together = max(1, TOKENS_AT_ONCE // flux1.num_tokens(latent_height, latent_width))
        groups = [seeds[start : start + together] for start in range(0, count, together)]
        progress = host.Progress(str(cls.hidden.unique_id))
        evaluations = sum(counts) * len(groups)
        done = itertools.count(1)

        def after_step() -> None:
            progress.update(next(done), evaluations)
            host.stop_if_interrupted()

        def sample_all(device: torch.device) -> Tensor:
            base = load_base(flux_lora.base, device)
            adapters.attach(base, owned(flux_lora))
            return torch.cat(
                [
                    sample(
                        base,
                        prompt_embeds,
                        pooled,
                        height=latent_height,
                        width=latent_width,
                        steps=number,
                        seeds=group,
                        guidance=guidance,
                        after_step=after_step,
                    ).cpu()
                    for number in counts
                    for group in groups
                ]
            )

        return io.NodeOutput({"samples": flux1.denormalise(host.with_device(sample_all))})


def step_counts(text: str) -> tuple[int, ...]:
    """``"1, 4, 25"`` -> (1, 4, 25). Raises ``ValueError`` for anything but whole numbers from 1 to 1000."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1000 for part in parts):
        raise ValueError(
            f"Sample FLUX LoRA: steps must be one or more whole numbers from 1 to 1000 with commas between them, "
            f"such as 1, 4, 25; got {text!r}."
        )
    return tuple(int(part) for part in parts)
