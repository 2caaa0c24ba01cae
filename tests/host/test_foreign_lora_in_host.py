"""LoRA files that the host itself trains do here, to each weight, what the host's own loader does with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxduel.tests.inside_host import run_inside
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.modules import ORIGINAL, Module
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.packing import file_layers

CONFIG = {
    "_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 12,
    "guidance_embeds": True, "axes_dims_rope": [4, 6, 6],
}  # fmt: skip


def layers_of(folder: Path) -> dict[str, Module]:
    return file_layers(FLUX1, BaseReference(str(folder), "fp32").config, ORIGINAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign-lora")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"unused": torch.zeros(1)}, folder / "weights.safetensors")
    (folder / "shapes.json").write_text(json.dumps({name: layer.shape for name, layer in layers_of(folder).items()}))
    run_inside("host_lora_changes.py", folder, "3")
    return folder


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_the_hosts_own_loras_do_what_they_do_in_the_host(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    reference = BaseReference(str(folder), "fp32")
    layers = layers_of(folder)
    path = folder / f"{kind}.safetensors"
    back = lora.load_file(path, reference)
    assert f"{len(load_file(folder / f'{kind}-changes.safetensors'))} differences of biases and norms" in caplog.text
    worst = 0.0
    for layer, theirs in load_file(folder / f"{kind}-changes.safetensors").items():
        names = tuple(part.name for part in layers[layer].parts)
        ours = [
            back.tensors[f"{name}.lora_B.weight"] @ back.tensors[f"{name}.lora_A.weight"] * back.config.alpha
            for name in names
        ]
        if names == ("norm_out.linear",):
            ours = list(ours[0].chunk(2)[::-1])
        error = (torch.cat(ours) / back.config.rank - theirs).norm() / theirs.norm()
        worst = max(worst, float(error))
    print(f"{kind}: {len(back.tensors) // 2} layers, rank {back.config.rank}, error {worst:.1e}")
    assert worst < 1e-6
