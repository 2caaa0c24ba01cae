"""FLUX.2 (klein base and distilled, dev): its blocks, its schedule, its files, and the layers a LoRA may sit on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import flux2_modules
from .family import Family, Hidden, Prompted, Run, grid_ids
from .latent_space import FLUX_2, LatentSpace
from .lora_layouts import DIFFUSION_MODEL, KOHYA
from .modules import DIFFUSERS, ORIGINAL, Module
from .shapes import DOUBLE_STREAMS, Layout, config_from_shapes

AXES = (32, 32, 32, 32)
THETA = 2000
# Width of a feed-forward part, in widths of the transformer.
MLP_RATIO = 3.0
# Above it the shift depends on the tokens alone.
MOST_TOKENS_BY_STEPS = 4300
# What diffusers' pipeline and ComfyUI's template sample a base at is 4 and 5.
BASE_CFG = 4.0
# What distilled klein was made for.
DISTILLED_STEPS = 4

_DOUBLE = r"transformer_blocks\.\d+\."
_SINGLE = r"single_transformer_blocks\.\d+\."
_PROJECTIONS = r"attn\.(?:to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_FUSED = r"attn\.(?:to_qkv_mlp_proj|to_out)"
_MLP = r"ff\.linear_in|ff\.linear_out|ff_context\.linear_in|ff_context\.linear_out"
_MODULATION = r"(?:double_stream_modulation_img|double_stream_modulation_txt|single_stream_modulation)\.linear"

_FUSED_WEIGHT = {ORIGINAL: "single_blocks.0.linear1", DIFFUSERS: "single_transformer_blocks.0.attn.to_qkv_mlp_proj"}
_OWN = ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
_GUIDANCE = {ORIGINAL: "guidance_in", DIFFUSERS: "time_guidance_embed.guidance_embedder"}

_KLEIN = {3072: "klein 4B", 4096: "klein 9B"}

_FINAL = r"norm_out\.linear"
_DROPPED = rf"{_MODULATION}|time_guidance_embed\.guidance_embedder\..*|{_FINAL}"


def _published(doubles: int, singles: int, heads: int, context: int, guidance_embeds: bool = False) -> dict[str, Any]:
    return {
        "in_channels": 128, "num_layers": doubles, "num_single_layers": singles, "attention_head_dim": 128,
        "num_attention_heads": heads, "joint_attention_dim": context, "mlp_ratio": MLP_RATIO,
        "guidance_embeds": guidance_embeds,
    }  # fmt: skip


class Flux2(Family):
    """The family. A token is one place of the VAE's latents; modulations are outside the blocks, which share them."""

    name = "FLUX.2"
    class_name = "Flux2Transformer2DModel"
    # From 0.40 on diffusers would bring another transformers.
    requirement = "diffusers>=0.37,<0.40"
    space: LatentSpace = FLUX_2
    text_tokens = 512
    target_presets = {
        "attention": f"{_DOUBLE}{_PROJECTIONS}|{_SINGLE}{_FUSED}",
        "attention+mlp": f"{_DOUBLE}(?:{_PROJECTIONS}|{_MLP})|{_SINGLE}{_FUSED}",
        "all": f"{_DOUBLE}(?:{_PROJECTIONS}|{_MLP})|{_SINGLE}{_FUSED}|{_MODULATION}",
    }
    model = "FLUX.2 klein base or dev"
    text = "Qwen3 (klein) or Mistral 3 (dev)"
    loader = "CLIPLoader of type flux2"
    text_parts = ("text_encoder",)
    architecture = "flux-2"
    scheduler = "Flux2Scheduler"
    # The host's samplers with a scheduler of their own shift by one constant.
    schedule_advice = (
        "In a graph give the sigmas of Flux2Scheduler (the steps, the picture's width and height) to SamplerCustom: "
        "KSampler's are the same for all sizes and numbers of steps."
    )
    published = {
        "FLUX.2 klein 4B": _published(5, 20, 24, 7680),
        "FLUX.2 klein 9B": _published(8, 24, 32, 12288),
        "FLUX.2 dev": _published(8, 48, 48, 15360, guidance_embeds=True),
    }
    # Of all layouts these two alone load in every ComfyUI that knows FLUX.2, and in diffusers.
    lora_layouts = {
        "diffusers": replace(DIFFUSION_MODEL, doubts=((_FINAL, "diffusers swaps their halves, so that they do harm"),)),
        "kohya": replace(KOHYA, doubts=((_DROPPED, "diffusers leaves them out"),)),
    }

    def mu(self, tokens: int, steps: float) -> float:
        """As the samplers of black-forest-labs' own code, diffusers and ComfyUI take it: lines through the tokens, one
        for 10 steps and one for 200, and between them by the number of steps; above 4300 tokens that of 200 steps,
        whatever the number."""
        many = 0.00016927 * tokens + 0.45666666
        if tokens > MOST_TOKENS_BY_STEPS:
            return many
        few = 8.73809524e-05 * tokens + 1.89833333
        return few + (many - few) * (steps - 10) / 190

    def guidance_embeds(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("guidance_embeds", True))

    def pooled_dim(self, config: Mapping[str, Any]) -> int:
        return 0

    def variant(self, config: Mapping[str, Any], told: str) -> str:
        """Dev has a guidance embedding. Klein base and the distilled one have the same shapes: the name tells."""
        if self.guidance_embeds(config):
            return "dev"
        size = _KLEIN.get(config["num_attention_heads"] * config["attention_head_dim"], "klein")
        return f"{size} base" if "base" in told.lower() else size

    def notes(self, config: Mapping[str, Any]) -> dict[str, str]:
        model = self.variant(config, "").lower()
        return {
            "modelspec.architecture": f"Flux.2-{model.replace(' ', '-')}/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux2",
            "ss_network_module": "networks.lora_flux_2",
            "ss_base_model_version": f"flux_2_{model.replace(' ', '_')}",
        }

    def usual_cfg(self, variant: str) -> float:
        """A base was never distilled to answer as if it were guided."""
        return BASE_CFG if variant.endswith("base") else 1.0

    def usual_steps(self, variant: str) -> int:
        return DISTILLED_STEPS if variant.startswith("klein") and not variant.endswith("base") else 0

    def distilled(self, variant: str) -> str:
        return variant.removesuffix(" base") if variant.endswith(" base") else ""

    def recognises(self, layout: Layout) -> bool:
        return any(layout.has(module) for module in _OWN)

    def config_of(self, layout: Layout) -> dict[str, Any]:
        naming = layout.naming
        return {
            "_class_name": self.class_name,
            **config_from_shapes(layout, self.name, DOUBLE_STREAMS[naming], _FUSED_WEIGHT[naming]),
            "patch_size": 1,
            "mlp_ratio": MLP_RATIO,
            "axes_dims_rope": list(AXES),
            "rope_theta": THETA,
            "guidance_embeds": layout.has(_GUIDANCE[naming]),
        }

    def original_modules(self, config: Mapping[str, Any]) -> Iterator[Module]:
        return flux2_modules.modules(config)

    def forward(self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted) -> Tensor:
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=given.prompt_embeds,
            timestep=given.sigma,
            img_ids=grid_ids(*size, len(AXES), tokens.device),
            txt_ids=text_ids(given.prompt_embeds.shape[1], tokens.device),
            guidance=given.guidance,
            return_dict=False,
        )[0]

    def trunk(
        self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted, run: Run
    ) -> Iterator[Tensor]:
        dtype, device, length = tokens.dtype, tokens.device, given.prompt_embeds.shape[1]
        strength = None if given.guidance is None else given.guidance.to(dtype) * 1000
        temb = transformer.time_guidance_embed(given.sigma.to(dtype) * 1000, strength)
        for_image = transformer.double_stream_modulation_img(temb)
        for_text = transformer.double_stream_modulation_txt(temb)
        for_both = transformer.single_stream_modulation(temb)
        image = transformer.x_embedder(tokens)
        text = transformer.context_embedder(given.prompt_embeds)
        rotary = transformer.pos_embed(torch.cat([text_ids(length, device), grid_ids(*size, len(AXES), device)]))
        for block in transformer.transformer_blocks:
            text, image = run(block, image, text, for_image, for_text, rotary, None)
            yield image
        both = torch.cat([text, image], dim=1)
        for block in transformer.single_transformer_blocks:
            both = run(block, both, None, for_both, rotary, None)
            yield both[:, length:]

    def hidden_parts(self, block: nn.Module) -> list[Hidden]:
        if hasattr(block, "ff"):
            return [Hidden(each.linear_in, gated(each.act_fn)) for each in (block.ff, block.ff_context)]
        attention = block.attn
        return [
            Hidden(
                attention.to_qkv_mlp_proj, gated(attention.mlp_act_fn, 3 * attention.inner_dim), attention.to_out
            )
        ]


def gated(activation: nn.Module, start: int = 0) -> tuple[tuple[nn.Module, Callable[[Tensor], Tensor]], ...]:
    """``Hidden.made`` of a SwiGLU of the channels from ``start`` on: the gate, and what it lets through."""

    def gate(wide: Tensor) -> Tensor:
        return activation.gate_fn(wide[..., start : start + (wide.shape[-1] - start) // 2])

    def through(wide: Tensor) -> Tensor:
        return activation(wide[..., start:])

    return (activation.gate_fn, gate), (activation, through)


def text_ids(length: int, device: torch.device | str) -> Tensor:
    """Rotary positions (length, 4) of the prompt: a token's place on the last axis."""
    ids = torch.zeros(length, len(AXES), device=device)
    ids[:, -1] = torch.arange(length, device=device)
    return ids


FLUX2 = Flux2()
