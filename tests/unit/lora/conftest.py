"""Bases of which a LoRA's files need the headers alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from fluxduel.tests.true_width import write_headers, write_published
from fluxduel.training.base.base_model import BaseReference


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """A base of width 32 with two blocks of each kind; a LoRA's files need its configuration, not its weights."""
    folder = tmp_path_factory.mktemp("narrow")
    config = {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 12,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 6, 6],
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"unused": torch.zeros(1)}, folder / "weights.safetensors")
    return BaseReference(str(folder), "fp32")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """A base of FLUX's width, for files by other programs, which know no other."""
    return BaseReference(str(write_headers(tmp_path_factory.mktemp("wide") / "flux.safetensors", double=1, single=1)))


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """A base of FLUX.1's width and depth."""
    return BaseReference(str(write_headers(tmp_path_factory.mktemp("deep") / "flux.safetensors", double=19, single=38)))


@pytest.fixture(scope="session")
def klein(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """A base of FLUX.2 klein 4B's width and depth."""
    path = tmp_path_factory.mktemp("klein") / "klein.safetensors"
    return BaseReference(str(write_published(path, "FLUX.2 klein 4B")))


@pytest.fixture(scope="session")
def narrow_flux2(tmp_path_factory: pytest.TempPathFactory) -> BaseReference:
    """A FLUX.2 of width 32 with two blocks of each kind."""
    folder = tmp_path_factory.mktemp("narrow-flux2")
    config = {
        "_class_name": "Flux2Transformer2DModel",
        "in_channels": 128,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "mlp_ratio": 3.0,
        "guidance_embeds": False,
        "axes_dims_rope": [4, 4, 4, 4],
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"unused": torch.zeros(1)}, folder / "weights.safetensors")
    return BaseReference(str(folder), "fp32")
