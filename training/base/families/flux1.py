"""FLUX.1 (dev, schnell, Krea): its blocks, its schedule, its files, and the layers a LoRA may sit on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ... import flow
from . import flux1_modules
from .family import Family, Hidden, Prompted, Run, grid_ids
from .latent_space import FLUX_1, LatentSpace
from .lora_layouts import KOHYA, TRANSFORMER
from .modules import DIFFUSERS, ORIGINAL, Module
from .shapes import DOUBLE_STREAMS, Layout, config_from_shapes, matrix_shape

# As of the rotary embedding, whose parts add up to a head.
AXES = (16, 56, 56)
# What schnell was made for.
DISTILLED_STEPS = 4

_BLOCK = r"(?:single_)?transformer_blocks\.\d+\."
_ATTENTION = r"attn\.(?:to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_MLP = r"ff\.net\.0\.proj|ff\.net\.2|ff_context\.net\.0\.proj|ff_context\.net\.2|proj_mlp|proj_out"
_MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"

_POOLED = {ORIGINAL: "vector_in.in_layer", DIFFUSERS: "time_text_embed.text_embedder.linear_1"}
_SINGLE = {ORIGINAL: "single_blocks.0.linear1", DIFFUSERS: "single_transformer_blocks.0.proj_mlp"}
_GUIDANCE = {ORIGINAL: "guidance_in", DIFFUSERS: "time_text_embed.guidance_embedder"}


class Flux1(Family):
    """The family. Pictures are tokens of 2 x 2 latent pixels; prompts have a pooled vector beside their tokens."""

    name = "FLUX.1"
    class_name = "FluxTransformer2DModel"
    requirement = "diffusers>=0.30"
    space: LatentSpace = FLUX_1
    text_tokens = 256
    target_presets = {
        "attention": _BLOCK + f"(?:{_ATTENTION})",
        "attention+mlp": _BLOCK + f"(?:{_ATTENTION}|{_MLP})",
        "all": _BLOCK + f"(?:{_ATTENTION}|{_MLP}|{_MODULATION})",
    }
    model = "a text-to-image FLUX.1 (dev, schnell, Krea)"
    text = "CLIP-L and T5-XXL"
    loader = "DualCLIPLoader of type flux"
    text_parts = ("text_encoder", "text_encoder_2")
    architecture = "flux-1"
    scheduler = "simple"
    # The host shifts its levels as for 1024 x 1024 whatever the size, and FLUX.1-schnell's not at all.
    schedule_advice = (
        "In a graph with KSampler put ModelSamplingFlux before it (max_shift 1.15, base_shift 0.5, the picture's width "
        "and height): scheduler simple is the trained schedule without that only for FLUX.1-dev at 1024 x 1024."
    )
    published = {
        "FLUX.1": {
            "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
    }  # fmt: skip
    lora_layouts = {"diffusers": TRANSFORMER, "kohya": KOHYA}

    def mu(self, tokens: int, steps: float) -> float:
        return flow.resolution_mu(tokens)

    def guidance_embeds(self, config: Mapping[str, Any]) -> bool:
        return bool(config["guidance_embeds"])

    def pooled_dim(self, config: Mapping[str, Any]) -> int:
        return config["pooled_projection_dim"]

    def variant(self, config: Mapping[str, Any], told: str) -> str:
        """Schnell has no guidance embedding. Kontext and Krea have the shapes of dev, and are told by name alone."""
        if not config["guidance_embeds"]:
            return "schnell"
        return next((name for name in ("Kontext", "Krea") if name.lower() in told.lower()), "dev")

    def usual_steps(self, variant: str) -> int:
        return DISTILLED_STEPS if variant == "schnell" else 0

    def notes(self, config: Mapping[str, Any]) -> dict[str, str]:
        return {
            "modelspec.architecture": "flux-1-dev/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux",
            "ss_network_module": "networks.lora_flux",
            "ss_base_model_version": "flux1",
        }

    def recognises(self, layout: Layout) -> bool:
        return layout.has(f"{DOUBLE_STREAMS[layout.naming].doubles}0")

    def config_of(self, layout: Layout) -> dict[str, Any]:
        naming = layout.naming
        pooled = _POOLED[naming]
        return {
            "_class_name": self.class_name,
            **config_from_shapes(layout, self.name, DOUBLE_STREAMS[naming], pooled, _SINGLE[naming]),
            "patch_size": 1,
            "pooled_projection_dim": matrix_shape(layout, self.name, pooled)[1],
            "guidance_embeds": layout.has(_GUIDANCE[naming]),
            "axes_dims_rope": list(AXES),
        }

    def original_modules(self, config: Mapping[str, Any]) -> Iterator[Module]:
        return flux1_modules.modules(config)

    def forward(self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted) -> Tensor:
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=given.prompt_embeds,
            pooled_projections=given.pooled_prompt_embeds,
            timestep=given.sigma,
            img_ids=image_ids(*size, tokens.device),
            txt_ids=text_ids(given.prompt_embeds.shape[1], tokens.device),
            guidance=given.guidance,
            return_dict=False,
        )[0]

    def trunk(
        self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted, run: Run
    ) -> Iterator[Tensor]:
        dtype, device = tokens.dtype, tokens.device
        image = transformer.x_embedder(tokens)
        text = transformer.context_embedder(given.prompt_embeds)
        strength = [] if given.guidance is None else [given.guidance.to(dtype) * 1000]
        temb = transformer.time_text_embed(given.sigma.to(dtype) * 1000, *strength, given.pooled_prompt_embeds)
        rotary = transformer.pos_embed(torch.cat([text_ids(text.shape[1], device), image_ids(*size, device)]))
        for block in self.blocks(transformer):
            text, image = run(block, image, text, temb, rotary, None)
            yield image

    def modulation_layers(self, block: nn.Module) -> list[nn.Module]:
        return [layer for name, layer in block.named_modules() if re.fullmatch(_MODULATION, name)]

    def hidden_parts(self, block: nn.Module) -> list[Hidden]:
        if hasattr(block, "proj_mlp"):
            made = ((block.act_mlp, block.act_mlp),)
            return [Hidden(block.proj_mlp, made, block.proj_out, block.attn)]
        return [Hidden(each.net[0].proj, ((each.net[0], each.net[0].gelu),)) for each in (block.ff, block.ff_context)]


def image_ids(height: int, width: int, device: torch.device | str) -> Tensor:
    """Rotary positions (h w, 3) of latents of this size: (0, row, column) of each token."""
    return grid_ids(height // FLUX_1.patch, width // FLUX_1.patch, 3, device)


def text_ids(length: int, device: torch.device | str) -> Tensor:
    """Rotary positions (length, 3) of the prompt: all zero."""
    return torch.zeros(length, 3, device=device)


FLUX1 = Flux1()
