"""FLUX.2 as a family: velocity, taps, levels and files against diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.models.transformers import transformer_flux2
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import save_file
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.base.base_model import (
    CHECKPOINTING,
    BaseModelError,
    BaseReference,
    FluxBase,
    empty_transformer,
    load_base,
    read_transformer_config,
)
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.base.families.modules import ORIGINAL
from fluxduel.training.base.variants import variant
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora

CONTEXT, LENGTH = 24, 5
HEIGHT, WIDTH = 3, 4
SHAPE = {
    "in_channels": 128, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip


def model(dtype: torch.dtype = torch.float64, **changes: Any) -> Flux2Transformer2DModel:
    """A small one, every weight of it random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = Flux2Transformer2DModel(**(SHAPE | changes))
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return transformer.to(dtype).eval()


def base(guidance_embeds: bool = False, dtype: torch.dtype = torch.float64) -> FluxBase:
    return FluxBase(model(dtype, guidance_embeds=guidance_embeds), BaseReference("flux2.safetensors", "fp32"))


def given(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Arguments of ``velocity``: rows and columns are told apart."""
    generator = torch.Generator().manual_seed(1)
    return {
        "x_t": torch.randn(2, 128, HEIGHT, WIDTH, generator=generator, dtype=dtype),
        "sigma": torch.tensor([0.25, 0.75], dtype=dtype),
        "prompt_embeds": torch.randn(2, LENGTH, CONTEXT, generator=generator, dtype=dtype),
        "pooled_prompt_embeds": torch.zeros(2, 0, dtype=dtype),
        "guidance": 4.0,
    }


def by_pipeline(transformer: Flux2Transformer2DModel, inputs: dict[str, Any]) -> Tensor:
    """The velocity as diffusers' pipeline asks for it."""
    x_t, prompt = inputs["x_t"], inputs["prompt_embeds"]
    ids = Flux2KleinPipeline._prepare_latent_ids(x_t)
    tokens = transformer(
        hidden_states=Flux2KleinPipeline._pack_latents(x_t),
        encoder_hidden_states=prompt,
        timestep=inputs["sigma"],
        img_ids=ids,
        txt_ids=Flux2KleinPipeline._prepare_text_ids(prompt),
        guidance=torch.full((2,), inputs["guidance"], dtype=x_t.dtype) if transformer.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return Flux2KleinPipeline._unpack_latents_with_ids(tokens, ids).reshape(x_t.shape)


@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_velocity_is_the_pipelines(guidance_embeds: bool) -> None:
    ours = base(guidance_embeds)
    with torch.no_grad():
        expected, found = by_pipeline(ours.transformer, given()), ours.velocity(**given())
        other = ours.velocity(**given() | {"guidance": 1.0})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, other) != guidance_embeds


def wide_rotary(x: Tensor, freqs: tuple[Tensor, Tensor], sequence_dim: int) -> Tensor:
    """diffusers' own in the type of ``x``: it rounds to fp32, which is too coarse for differences."""
    cos, sin = (each[None, :, None].to(x) for each in freqs)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(3) * sin


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_the_slope_through_a_tap_is_the_features_own(monkeypatch: pytest.MonkeyPatch, checkpointing: str) -> None:
    """By central differences along a random direction."""
    monkeypatch.setattr(transformer_flux2, "apply_rotary_emb", wide_rotary)
    ours, inputs = base(), given()
    ours.checkpointing = checkpointing
    latents = inputs.pop("x_t").requires_grad_()
    generator = torch.Generator().manual_seed(2)
    weigh = [torch.randn(2, 32, HEIGHT, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]
    along = torch.randn(latents.shape, generator=generator, dtype=torch.float64)

    def seen(x: Tensor) -> Tensor:
        maps = ours.features(x, **inputs, taps=(0, 1, 3))
        return sum((a * b).sum() for a, b in zip(maps, weigh, strict=True))

    (gradient,) = torch.autograd.grad(seen(latents), latents)
    with torch.no_grad():
        slope = (seen(latents + 1e-6 * along) - seen(latents - 1e-6 * along)) / 2e-6
    torch.testing.assert_close((gradient * along).sum(), slope, rtol=1e-6, atol=1e-6)


def test_without_the_adapter_it_is_the_frozen_base(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    model(torch.float32).save_pretrained(folder)
    reference = BaseReference(str(folder), "fp32")
    plain, adapted = load_base(reference, "cpu"), load_base(reference, "cpu")
    lora.attach(adapted, lora.create(reference, LoRAConfig(rank=2, targets="all")))
    for weight in lora.parameters(adapted):
        weight.data.normal_(std=0.3)
    inputs = given(torch.float32)
    with torch.no_grad():
        assert torch.equal(adapted.velocity(**inputs, adapter=False), plain.velocity(**inputs))
        assert not torch.allclose(adapted.velocity(**inputs), plain.velocity(**inputs))


@pytest.mark.parametrize("steps", [4, 8, 20, 50])
@pytest.mark.parametrize("tokens", [1024, 4096, 4300, 4301, 9216])
def test_levels_are_the_pipelines(steps: int, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = compute_empirical_mu(tokens, steps)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    assert FLUX2.mu(tokens, steps) == pytest.approx(mu, rel=1e-12)
    ours = flow.sampling_sigmas(steps, FLUX2.mu(tokens, steps)).float()
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-6, atol=1e-6)


def test_four_steps_jump_where_a_picture_passes_4300_tokens() -> None:
    assert FLUX2.mu(4300, 4) == pytest.approx(2.308, abs=1e-3) and FLUX2.mu(4301, 4) == pytest.approx(1.185, abs=1e-3)


CONFIGS = {
    "klein 4B": (5, 20, 24, 7680, False, 3_876_000_000),
    "klein 9B": (8, 24, 32, 12288, False, 9_079_000_000),
    "dev": (8, 48, 48, 15360, True, 32_223_000_000),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_single_file_is_told_by_its_shapes(tmp_path: Path, name: str) -> None:
    """With the tensors of one row that the header needs; sizes are the published ones to the nearest million."""
    doubles, singles, heads, context, guided, parameters = CONFIGS[name]
    width = 128 * heads
    shapes = {
        "img_in": (width, 128),
        "txt_in": (width, context),
        "time_in.in_layer": (1, 1),
        "single_stream_modulation.lin": (1, 1),
        **({"guidance_in.in_layer": (1, 1)} if guided else {}),
        **{f"double_blocks.{i}.img_attn.qkv": (1, 1) for i in range(doubles)},
        **{f"single_blocks.{i}.linear1": (1, 1) for i in range(singles)},
        "final_layer.linear": (1, 1),
    }
    tensors = {f"model.diffusion_model.{key}.weight": torch.zeros(shape) for key, shape in shapes.items()}
    tensors["model.diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale"] = torch.zeros(128)
    path = tmp_path / "flux-2-base.safetensors"
    save_file({key: each.to(torch.float8_e4m3fn) for key, each in tensors.items()}, path)
    config = read_transformer_config(str(path))
    transformer = empty_transformer(config)
    assert sum(weight.numel() for weight in transformer.parameters()) == pytest.approx(parameters, abs=5e5)
    assert variant(str(path)) == {"dev": "dev"}.get(name, f"{name} base")


def original(config: dict[str, Any], dtype: torch.dtype, norms: str) -> dict[str, Tensor]:
    """A file of random weights under black-forest-labs' names."""
    generator = torch.Generator().manual_seed(4)
    modules = {
        f"{module.name}.{norms if module.is_norm else 'weight'}": module.shape
        for module in FLUX2.modules(config, ORIGINAL)
    }
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in modules.items()}


@pytest.mark.parametrize("norms", ["scale", "weight"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_a_single_file_is_read_as_diffusers_converts_it(
    tmp_path: Path, norms: str, prefix: str, guidance_embeds: bool
) -> None:
    config = dict(model(attention_head_dim=128, axes_dims_rope=(32,) * 4, guidance_embeds=guidance_embeds).config)
    tensors = original(config, torch.float32, norms)
    path = tmp_path / "flux2.safetensors"
    save_file({prefix + key: each for key, each in tensors.items()}, path)
    found = load_base(BaseReference(str(path), "fp32"), "cpu")
    assert found.family is FLUX2 and found.latent_channels == 128 and found.pooled_dim == 0
    theirs = convert_flux2_transformer_checkpoint_to_diffusers(dict(tensors))
    ours = found.transformer.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_older_diffusers_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FLUX2), "class_name", "Flux2TransformerOfAnotherRelease")
    with pytest.raises(BaseModelError, match=r'FLUX\.2 needs another .* pip install "diffusers>=0\.37,<0\.40"'):
        FLUX2.transformer_class()
