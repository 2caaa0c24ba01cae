"""Many captions drawn at once with a LoRA merged into the base: the same noise for a subject whoever draws it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fluxduel.training import draws, flow
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.base.solvers import solve
from fluxduel.training.config import TINY_BASE
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.lora.value import DOWN, UP, module_names

from . import subjects

PLACES = subjects.SIDE // FLUX_1.factor
BATCH, DECODED = 80, 16
_SEED = 10_000


class Setting(NamedTuple):
    """A way to sample."""

    solver: str
    steps: int
    guidance: float = 1.0
    strength: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.solver}/{self.steps}/g{self.guidance:g}/s{self.strength:g}"


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> tuple[FluxBase, dict[str, Tensor]]:
    """The base in bf16, in which a core is nearly twice as fast, and its own weights in fp32."""
    base = load_base(BaseReference(path, "fp32"), "cpu")
    own = {name: weight.detach().clone() for name, weight in base.transformer.named_parameters()}
    return load_base(BaseReference(path, "bf16"), "cpu"), own


def _base_of(lora: FluxLoRA | None) -> tuple[FluxBase, dict[str, Tensor]]:
    return _loaded(lora.base.path if lora else TINY_BASE)


def _wear(lora: FluxLoRA | None, strength: float) -> FluxBase:
    base, own = _base_of(lora)
    weights = dict(base.transformer.named_parameters())
    with torch.no_grad():
        for name in module_names(lora.tensors) if lora else ():
            change = lora.tensors[name + UP] @ lora.tensors[name + DOWN]
            scale = strength * lora.config.alpha / lora.config.rank
            weights[f"{name}.weight"].copy_(own[f"{name}.weight"] + scale * change)
    return base


def _undress(lora: FluxLoRA | None) -> None:
    base, own = _base_of(lora)
    weights = dict(base.transformer.named_parameters())
    with torch.no_grad():
        for name in module_names(lora.tensors) if lora else ():
            weights[f"{name}.weight"].copy_(own[f"{name}.weight"])


@torch.no_grad()
def latents(lora: FluxLoRA | None, captions: Sequence[str], setting: Setting, first_seed: int = 0) -> Tensor:
    """One sample a caption, (n, 16, 16, 16) in fp32, on the LoRA's base; the i-th from noise ``first_seed + i``."""
    base = _wear(lora, setting.strength)
    prompts = [subjects.prompt(text) for text in captions]
    sigmas = flow.sampling_sigmas(setting.steps, flow.resolution_mu(FLUX_1.num_tokens(PLACES, PLACES))).float()
    shape = (base.latent_channels, PLACES, PLACES)
    found = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        embeds = torch.stack([one.prompt_embeds for one in part])
        pooled = torch.stack([one.pooled_prompt_embeds for one in part])
        seeds = range(_SEED + first_seed + start, _SEED + first_seed + start + len(part))
        noise = torch.cat([draws.normals(seed, 0, [0], "sample", shape) for seed in seeds])

        def velocity(x: Tensor, sigma: Tensor, embeds: Tensor = embeds, pooled: Tensor = pooled) -> Tensor:
            return base.velocity(x, sigma.expand(len(x)), embeds, pooled, setting.guidance)

        found.append(solve(setting.solver, velocity, noise, sigmas))
    _undress(lora)
    return torch.cat(found)


@functools.lru_cache(maxsize=1)
def _decoder() -> nn.Module:
    """The base's own, many pictures at once."""
    return subjects.encoders().picture_vae().to(memory_format=torch.channels_last)


@torch.no_grad()
def through_vae(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, 128, 128) in [0, 1] as the VAE shows them: the most that any LoRA can draw."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [_decoder().decode(_decoder().encode(part * 2 - 1)) for part in pictures.split(DECODED)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).contiguous()


@torch.no_grad()
def decoded(found: Tensor) -> Tensor:
    """Pictures (n, 3, 128, 128) in [0, 1] of latents (n, 16, 16, 16)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [_decoder().decode(FLUX_1.denormalise(part)) for part in found.split(DECODED)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).contiguous()
