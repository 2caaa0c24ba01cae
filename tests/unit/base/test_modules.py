"""The names of FLUX.1's modules in files, against diffusers' own converter and its own model."""

from __future__ import annotations

from math import prod

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from torch import Tensor

from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.modules import DIFFUSERS, ORIGINAL, Part

CONFIG = {
    "patch_size": 1, "in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 64, "pooled_projection_dim": 32, "guidance_embeds": True,
}  # fmt: skip


def rows_of(tensor: Tensor, part: Part) -> Tensor:
    return torch.cat([tensor[start:end] for start, end in part.rows])


@pytest.mark.parametrize("guidance", [True, False])
def test_rows_go_where_diffusers_converter_puts_them(guidance: bool) -> None:
    """Its width is fixed at 3072, but it splits rows alone, so two columns are enough."""
    config = {**CONFIG, "guidance_embeds": guidance}
    generator = torch.Generator().manual_seed(0)
    original, ours = {}, {}
    for module in FLUX1.modules(config, ORIGINAL):
        ends = ["scale"] if module.is_norm else ["weight", "bias"]
        for end in ends:
            shape = (module.shape[0], 2) if end == "weight" else (module.shape[0],)
            original[f"{module.name}.{end}"] = tensor = torch.randn(shape, generator=generator)
            name = "weight" if end == "scale" else end
            ours |= {f"{part.name}.{name}": rows_of(tensor, part) for part in module.parts}
    theirs = convert_flux_transformer_checkpoint_to_diffusers(original)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("naming", [ORIGINAL, DIFFUSERS])
@pytest.mark.parametrize("changes", [{}, {"guidance_embeds": False, "out_channels": 16, "num_single_layers": 1}])
def test_shapes_are_those_of_diffusers_model(naming: str, changes: dict[str, object]) -> None:
    config = {**CONFIG, "num_attention_heads": 2, **changes}
    with init_empty_weights():
        model = FluxTransformer2DModel(**config)
    found = {}
    for module in FLUX1.modules(config, naming):
        for part in module.parts:
            rows = sum(end - start for start, end in part.rows)
            found[f"{part.name}.weight"] = (rows, *module.shape[1:])
            if module.bias:
                found[f"{part.name}.bias"] = (rows,)
    assert found == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_no_row_is_lost_or_taken_twice() -> None:
    for module in FLUX1.modules(CONFIG, ORIGINAL):
        taken = sorted(row for part in module.parts for piece in part.rows for row in range(*piece))
        assert taken == list(range(module.shape[0]))


@pytest.mark.parametrize("naming", [ORIGINAL, DIFFUSERS])
def test_all_of_flux_is_named(naming: str) -> None:
    """FLUX.1-dev has 11 901 408 320 parameters."""
    dev = {"num_layers": 19, "num_single_layers": 38, "joint_attention_dim": 4096, "pooled_projection_dim": 768}
    every = list(FLUX1.modules({**CONFIG, **dev}, naming))
    assert len({module.name for module in every}) == len(every)
    assert sum(prod(module.shape) + module.bias * module.shape[0] for module in every) == 11_901_408_320
