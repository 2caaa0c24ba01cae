"""FLUX.3 as a family: velocity, taps, levels and files against diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxduel.training import flow
from fluxduel.training.base.base_model import (
    CHECKPOINTING,
    BaseModelError,
    BaseReference,
    FluxBase,
    load_base,
    read_transformer_config,
)
from fluxduel.training.base.families.flux3 import FLUX3
from fluxduel.training.base.families.modules import DIFFUSERS, ORIGINAL
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora

diffusers = pytest.importorskip("diffusers", minversion="0.42")

from diffusers import FlowMatchEulerDiscreteScheduler, Flux3Transformer2DModel  # noqa: E402
from diffusers.loaders.single_file_utils import convert_flux3_transformer_checkpoint_to_diffusers  # noqa: E402
from diffusers.modular_pipelines.flux3 import before_denoise  # noqa: E402

CONTEXT, LENGTH = 24, 5
HEIGHT, WIDTH = 3, 4
SHAPE = {
    "in_channels": 128, "cond_in_channels": 128, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip


def model(**changes: Any) -> Flux3Transformer2DModel:
    """A small one, every weight of it random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = Flux3Transformer2DModel(**(SHAPE | changes))
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return transformer.eval()


def saved(folder: Path, precision: str = "fp32") -> BaseReference:
    model().save_pretrained(folder)
    return BaseReference(str(folder), precision)


def given() -> dict[str, Any]:
    """Arguments of ``velocity``: rows and columns are told apart."""
    generator = torch.Generator().manual_seed(1)
    return {
        "x_t": torch.randn(2, 128, HEIGHT, WIDTH, generator=generator),
        "sigma": torch.tensor([0.25, 0.75]),
        "prompt_embeds": torch.randn(2, LENGTH, CONTEXT, generator=generator),
        "pooled_prompt_embeds": torch.zeros(2, 0),
        "guidance": 4.0,
    }


def by_pipeline(transformer: Flux3Transformer2DModel, inputs: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """The velocity as diffusers' pipeline asks for it."""
    x_t, prompt = inputs["x_t"], inputs["prompt_embeds"]
    tokens = transformer(
        hidden_states=x_t.flatten(2).transpose(1, 2).to(dtype),
        encoder_hidden_states=prompt.to(dtype),
        timestep=inputs["sigma"],
        img_ids=before_denoise._prepare_image_ids(HEIGHT, WIDTH, 0.5),
        txt_ids=before_denoise.Flux3PrepareTextIdsStep._prepare_text_ids(prompt)
        if hasattr(before_denoise, "Flux3PrepareTextIdsStep")
        else torch.cartesian_prod(*[torch.arange(1)] * 3, torch.arange(LENGTH)).float(),
        return_dict=False,
    )[0]
    return tokens.transpose(1, 2).reshape(x_t.shape).float()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_velocity_is_the_pipelines(tmp_path: Path, precision: str) -> None:
    """In bf16 its norms stay in fp32, as diffusers loads them; reference pictures' weights are not held."""
    ours = load_base(saved(tmp_path / "base", precision), "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    theirs = Flux3Transformer2DModel.from_pretrained(tmp_path / "base", torch_dtype=dtype)
    with torch.no_grad():
        expected, found = by_pipeline(theirs, given(), dtype), ours.velocity(**given())
    assert torch.equal(found, expected)
    assert ours.dtype == dtype
    held = dict(ours.transformer.named_parameters())
    assert not any("image_cond" in name for name in held)
    assert {name: weight.dtype for name, weight in held.items()} == {
        name: weight.dtype for name, weight in theirs.named_parameters() if "image_cond" not in name
    }


def test_features_are_the_picture_tokens_that_blocks_give(tmp_path: Path) -> None:
    ours, outputs = load_base(saved(tmp_path / "base"), "cpu"), []
    transformer = ours.transformer
    tapped = [*transformer.mode_blocks["image"], *transformer.single_transformer_blocks]
    for block in tapped:
        block.register_forward_hook(lambda _, __, out: outputs.append(out if isinstance(out, Tensor) else out[1]))
    inputs = given()
    with torch.no_grad():
        ours.velocity(**inputs)
        whole, outputs[:] = list(outputs), []
        maps = ours.features(inputs.pop("x_t"), **inputs, taps=(0, 1, 2, 3))
    assert len(outputs) == 4, "blocks behind the last tap run"
    for tokens, found in zip(whole, maps, strict=False):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)
    assert FLUX3.tap_blocks("d1,s0", 2, 3) == (1, 2)


@pytest.mark.parametrize("targets", ["attention", "attention+mlp", "all"])
def test_all_levels_of_recomputation_give_the_same_gradients(tmp_path: Path, targets: str) -> None:
    reference = saved(tmp_path / "base")
    start = lora.create(reference, LoRAConfig(rank=2, targets=targets))
    found = []
    for level in CHECKPOINTING:
        ours = load_base(reference, "cpu")
        lora.attach(ours, start)
        for weight in lora.parameters(ours):
            weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
        ours.checkpointing = level
        (ours.velocity(**given()) * ours.velocity(**given(), adapter=False)).sum().backward()
        found.append([weight.grad for weight in lora.parameters(ours)])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    # The prompt's last own block is followed by joint ones, so that all layers count.
    assert all(each.abs().sum() > 0 for each in found[0])


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_levels_are_the_pipelines(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.93)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    ours = flow.sampling_sigmas(steps, FLUX3.mu(4096, steps)).float()
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-6, atol=1e-6)


def original(config: dict[str, Any]) -> dict[str, Tensor]:
    """A file of random weights under black-forest-labs' names."""
    generator = torch.Generator().manual_seed(4)
    modules = {
        f"{module.name}.{'scale' if module.is_norm else 'weight'}": module.shape
        for module in FLUX3.modules(config, ORIGINAL)
    }
    return {key: torch.randn(shape, generator=generator) for key, shape in modules.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_is_read_as_diffusers_converts_it(tmp_path: Path, prefix: str) -> None:
    config = dict(model(attention_head_dim=128, axes_dims_rope=(32,) * 4).config)
    tensors = original(config)
    path = tmp_path / "flux3.safetensors"
    save_file({prefix + key: each for key, each in tensors.items()} | {"repa_projectors.0.weight": torch.ones(1)}, path)
    found = load_base(BaseReference(str(path), "fp32"), "cpu")
    assert isinstance(found, FluxBase) and found.family is FLUX3 and found.latent_channels == 128
    theirs = convert_flux3_transformer_checkpoint_to_diffusers(dict(tensors))
    ours = found.transformer.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_distilled_one_is_refused_by_name(tmp_path: Path) -> None:
    tensors = original(dict(model(attention_head_dim=128, axes_dims_rope=(32,) * 4).config))
    path = tmp_path / "flux3.safetensors"
    save_file(tensors | {"ref_time_in.in_layer.weight": torch.ones(1, 1)}, path)
    with pytest.raises(BaseModelError, match=r"is the distilled FLUX\.3 .* choose FLUX\.3 Image Klein base"):
        read_transformer_config(str(path))


def test_klein_has_5_5_billion_parameters() -> None:
    """Of 5.54 those of reference pictures are left out."""
    config = dict(Flux3Transformer2DModel.config_name and SHAPE) | {
        "num_layers": 5, "num_single_layers": 28, "attention_head_dim": 128, "num_attention_heads": 24,
        "joint_attention_dim": 20480, "mlp_ratio": 3.0,
    }  # fmt: skip
    named = list(FLUX3.modules(config, DIFFUSERS))
    assert len({module.name for module in named}) == len(named)
    held = sum(int(np.prod(module.shape)) for module in named)
    block = sum(int(np.prod(m.shape)) for m in named if m.name.startswith("txt_mode_blocks.0."))
    width = 3072
    left_out = 5 * block + 2 * 3 * width * width + width * 128
    assert held + left_out == pytest.approx(5_538_000_000, abs=5e5)
