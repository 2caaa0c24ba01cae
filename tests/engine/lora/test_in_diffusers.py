"""LoRA files on diffusers' own transformer, as its own loaders put them there, do there what they do here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, Flux3Transformer2DModel
from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin, Flux3LoraLoaderMixin
from torch import Tensor

from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.value import module_names

CONTEXT = 24
SHAPE = {
    "in_channels": 128, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "FLUX.2": (Flux2Transformer2DModel, Flux2LoraLoaderMixin, {"guidance_embeds": False}),
    "FLUX.3": (Flux3Transformer2DModel, Flux3LoraLoaderMixin, {}),
}


def saved(folder: Path, kind: str) -> BaseReference:
    maker, _, more = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = maker(**SHAPE, **more)
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    transformer.save_pretrained(folder)
    return BaseReference(str(folder), "fp32")


def velocity(base: FluxBase) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, prompt = torch.randn(1, 128, 3, 4, generator=generator), torch.randn(1, 5, CONTEXT, generator=generator)
    with torch.no_grad():
        return base.velocity(latents, torch.tensor([0.5]), prompt, torch.zeros(1, 0), 1.0)


def in_diffusers(reference: BaseReference, kind: str, path: Path, *, by_dict: bool) -> tuple[FluxBase, set[str]]:
    """A base that diffusers has loaded the file into, and the layers that it has adapted."""
    base = load_base(reference, "cpu")
    loader = KINDS[kind][1]
    given = lora.file_tensors(lora.load_file(path, reference)) if by_dict else str(path)
    state, metadata = loader.lora_state_dict(given, return_lora_metadata=True)
    loader.load_lora_into_transformer(state, base.transformer, metadata=metadata)
    base.find_adapter()
    layers = {name.partition(".lora_A")[0] for name, _ in base.transformer.named_parameters() if ".lora_A" in name}
    return base, layers


CASES = [
    ("FLUX.2", "diffusers", "attention"),
    ("FLUX.2", "diffusers", "all"),
    ("FLUX.2", "kohya", "attention+mlp"),
    ("FLUX.3", "diffusers", "attention+mlp"),
]


@pytest.mark.parametrize("by_dict", [False, True])
@pytest.mark.parametrize(("kind", "format", "targets"), CASES)
def test_a_file_does_in_diffusers_what_it_does_here(
    tmp_path: Path, kind: str, format: str, targets: str, by_dict: bool
) -> None:
    reference = saved(tmp_path / "base", kind)
    new = lora.create(reference, LoRAConfig(rank=3, alpha=1.2, targets=targets))
    generator = torch.Generator().manual_seed(2)
    tensors = {key: torch.randn(tensor.shape, generator=generator) * 0.3 for key, tensor in new.tensors.items()}
    some = lora.FluxLoRA(reference, new.config, tensors)
    ours = load_base(reference, "cpu")
    plain = velocity(ours)
    lora.attach(ours, some)
    path = lora.save(some, tmp_path / "lora.safetensors", format)
    theirs, layers = in_diffusers(reference, kind, path, by_dict=by_dict)
    assert layers == set(module_names(tensors))
    change = velocity(ours) - plain
    error = float((velocity(theirs) - plain - change).norm() / change.norm())
    print(f"{kind}, {format}, {targets}: relative error {error:.1e}, change {float(change.norm() / plain.norm()):.2f}")
    assert error < 1e-5


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_diffusers_drops_modulation_layers_of_one_format_alone(tmp_path: Path, format: str) -> None:
    """As ``doubts`` says of files by kohya's names."""
    reference = saved(tmp_path / "base", "FLUX.2")
    new = lora.create(reference, LoRAConfig(rank=2, targets="all"))
    path = lora.save(new, tmp_path / "lora.safetensors", format)
    _, layers = in_diffusers(reference, "FLUX.2", path, by_dict=False)
    dropped = set(module_names(new.tensors)) - layers
    assert dropped == (
        {name for name in module_names(new.tensors) if "modulation" in name} if format == "kohya" else set()
    )
