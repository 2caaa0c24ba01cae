"""FLUX.3 Image Klein, base-trained: its blocks, its schedule, its files, and the layers a LoRA may sit on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import BaseModelError
from . import flux3_modules
from .family import Family, Hidden, Prompted, Run, grid_ids
from .flux2 import gated, text_ids
from .latent_space import FLUX_2, LatentSpace
from .lora_layouts import DIFFUSION_MODEL, KOHYA
from .modules import DIFFUSERS, ORIGINAL, Module
from .shapes import ConfigKeys, Layout, config_from_shapes

AXES = (32, 32, 32, 32)
THETA = 10000
MLP_RATIO = 3.0
# sigma -> SHIFT sigma / (1 + (SHIFT - 1) sigma), whatever the picture's size and the number of steps.
SHIFT = 6.93
# diffusers' pipeline samples the base at 3.5 to 4.
USUAL_CFG = 4.0
# Of the picture's rows and columns.
ROPE_SCALE = 0.5

_BLOCK = r"(?:mode_blocks\.image|txt_mode_blocks|single_transformer_blocks)\.\d+\."
_ATTENTION = r"attn\.(?:to_q|to_k|to_v|to_out\.0)"
_MLP = r"ff\.linear_in|ff\.linear_out"
_MODULATION = r"(?:early|single)_stream_modulations\.(?:image|txt)\.linear"
# Of reference pictures, which text-to-image has not.
_UNUSED = ("early_stream_modulations", "single_stream_modulations", "x_embedders", "mode_blocks")

_KEYS = {
    ORIGINAL: ConfigKeys(
        image="emb_in.image", text="txt_in", norm="single_blocks.0.norm.query_norm",
        doubles="content_mode_blocks.image.", singles="single_blocks.",
        needed=("time_in.in_layer", "txt_mode_blocks.0.q_proj", "final_layer.image.linear"),
    ),
    DIFFUSERS: ConfigKeys(
        image="x_embedders.image", text="context_embedder", norm="single_transformer_blocks.0.attn.norm_q",
        doubles="mode_blocks.image.", singles="single_transformer_blocks.",
        needed=("timestep_embedder.linear_1", "txt_mode_blocks.0.attn.to_q", "proj_out"),
    ),
}  # fmt: skip
_OWN = ("early_stream_modulations", "txt_mode_blocks")
_FLOW_MAP = {ORIGINAL: "ref_time_in", DIFFUSERS: "target_timestep_embedder"}


class Flux3(Family):
    """The family. The prompt's and the picture's tokens have blocks of their own ("double" ones) before they meet."""

    name = "FLUX.3"
    class_name = "Flux3Transformer2DModel"
    requirement = "diffusers>=0.42"
    space: LatentSpace = FLUX_2
    text_tokens = 80
    target_presets = {
        "attention": f"{_BLOCK}{_ATTENTION}",
        "attention+mlp": f"{_BLOCK}(?:{_ATTENTION}|{_MLP})",
        "all": f"{_BLOCK}(?:{_ATTENTION}|{_MLP})|{_MODULATION}",
    }
    model = "FLUX.3 Image Klein base"
    text = "Qwen3-VL"
    loader = "CLIPLoader of type flux3"
    text_parts = ("text_encoder",)
    architecture = "flux-3"
    scheduler = "simple"
    schedule_advice = f"The levels it was trained for are shifted by {SHIFT}, whatever the size and number of steps."
    published = {
        "FLUX.3 Image Klein": {
            "in_channels": 128, "num_layers": 5, "num_single_layers": 28, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 20480, "mlp_ratio": MLP_RATIO,
        },
    }  # fmt: skip
    lora_layouts = {
        "diffusers": replace(DIFFUSION_MODEL, doubts=((rf"(?!{_BLOCK}).*", "diffusers finds no place for them"),)),
        "kohya": replace(KOHYA, doubts=((r".*", "diffusers does not load them"),)),
    }

    def mu(self, tokens: int, steps: float) -> float:
        return math.log(SHIFT)

    def guidance_embeds(self, config: Mapping[str, Any]) -> bool:
        return False

    def pooled_dim(self, config: Mapping[str, Any]) -> int:
        return 0

    def variant(self, config: Mapping[str, Any], told: str) -> str:
        return "klein base"

    def notes(self, config: Mapping[str, Any]) -> dict[str, str]:
        return {
            "modelspec.architecture": "Flux.3-image-klein/lora",
            "ss_base_model_version": "flux_3_image_klein",
        }

    def usual_cfg(self, variant: str) -> float:
        return USUAL_CFG

    def recognises(self, layout: Layout) -> bool:
        return any(layout.has(module) for module in _OWN)

    def config_of(self, layout: Layout) -> dict[str, Any]:
        naming = layout.naming
        if layout.has(_FLOW_MAP[naming]):
            raise BaseModelError(
                f"{layout.name} is the distilled FLUX.3 Image Klein (key {_FLOW_MAP[naming]}), whose steps are told "
                f"where they end. Train on the base: choose {self.model}."
            )
        return {
            "_class_name": self.class_name,
            **config_from_shapes(layout, self.name, _KEYS[naming]),
            "mlp_ratio": MLP_RATIO,
            "axes_dims_rope": list(AXES),
            "rope_theta": THETA,
        }

    def original_modules(self, config: Mapping[str, Any]) -> Iterator[Module]:
        return flux3_modules.modules(config)

    def without_unused(self, transformer: nn.Module) -> nn.Module:
        """A seventh of its weights are for reference pictures alone."""
        for part in _UNUSED:
            modules = getattr(transformer, part)
            if "image_cond" in modules:
                del modules["image_cond"]
        return transformer

    def chains(self, transformer: nn.Module) -> list[nn.ModuleList]:
        """The prompt's, the picture's, and those of both."""
        return [transformer.txt_mode_blocks, transformer.mode_blocks["image"], transformer.single_transformer_blocks]

    def place(self, layer: str) -> tuple[bool, int] | None:
        found = re.match(r"(?:(single_transformer_blocks)|mode_blocks\.image|txt_mode_blocks)\.(\d+)\.", layer)
        return found and (found[1] is not None, int(found[2]))

    def forward(self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted) -> Tensor:
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=given.prompt_embeds,
            timestep=given.sigma,
            img_ids=image_ids(*size, tokens.device),
            txt_ids=text_ids(given.prompt_embeds.shape[1], tokens.device),
            return_dict=False,
        )[0]

    def trunk(
        self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted, run: Run
    ) -> Iterator[Tensor]:
        dtype, device, length = tokens.dtype, tokens.device, given.prompt_embeds.shape[1]

        def embedded(sigma: Tensor) -> Tensor:
            """The level of all tokens of a sample."""
            times = transformer.time_proj(sigma.to(dtype) * 1000)
            return functional.silu(transformer.timestep_embedder(times.to(dtype))[:, None])

        # The prompt is without noise.
        levels = {"image": embedded(given.sigma), "txt": embedded(torch.zeros_like(given.sigma))}
        early, both = (
            {kind: modulations[kind](level) for kind, level in levels.items()}
            for modulations in (transformer.early_stream_modulations, transformer.single_stream_modulations)
        )
        image = transformer.x_embedders["image"](tokens)
        text = transformer.context_embedder(given.prompt_embeds)
        for_text, for_image = (
            transformer.pos_embed(ids) for ids in (text_ids(length, device), image_ids(*size, device))
        )
        for block in transformer.txt_mode_blocks:
            text = run(block, text, early["txt"], for_text)
        for block in transformer.mode_blocks["image"]:
            image = run(block, image, early["image"], for_image)
            yield image
        for_both = tuple(torch.cat(parts) for parts in zip(for_text, for_image, strict=True))
        for block in transformer.single_transformer_blocks:
            text, image = run(block, image, text, both["image"], both["txt"], for_both)
            yield image

    def hidden_parts(self, block: nn.Module) -> list[Hidden]:
        return [Hidden(block.ff.linear_in, gated(block.ff.act_fn))]


def image_ids(height: int, width: int, device: torch.device | str) -> Tensor:
    """Rotary positions (h w, 4) of latents of this size: half of row and column."""
    return grid_ids(height, width, len(AXES), device) * ROPE_SCALE


FLUX3 = Flux3()
