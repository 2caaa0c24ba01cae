"""A run without ComfyUI on a small random FLUX.2 in diffusers' layout: both stages, previews, samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2Transformer2DModel
from PIL import Image
from safetensors.torch import load_file

from fluxduel.headless.command_line import main
from fluxduel.tests.engine.flux2_encoders import SIZES, make_dev, make_klein


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}")


def write_transformer(folder: Path, guidance_embeds: bool, seed: int = 0) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=128, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=3 * SIZES["hidden_size"], axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance_embeds,
        )  # fmt: skip
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    transformer.save_pretrained(folder)


@pytest.mark.parametrize("make", [make_klein, make_dev], ids=["klein", "dev"])
def test_a_flux2_in_diffusers_layout_trains_in_both_stages_and_samples(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "flux2")
    write_transformer(folder / "transformer", guidance_embeds=make is make_dev)
    write_pictures(tmp_path / "pictures")
    values = {
        "base": {"checkpoint": str(folder), "precision": "fp32", "device": "cpu"},
        "lora": {"rank": 2, "alpha": 2.0},
        "images": {"folder": str(tmp_path / "pictures")},
        "data": {"resolution": 64, "held_out_share": 0.3},
        "diffusion": {"steps": 2, "preview_every": 2, "preview_steps": 1},
        "discriminator": {"width": 8},
        "adversarial": {"steps": 2, "discriminator_warmup": 1, "watch_pictures": 4, "validate_every": 2},
        "output": {"folder": str(tmp_path / "out")},
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(values))
    assert main(["train", str(config)]) == 0, capsys.readouterr().err
    assert "Warning: the prompts" not in capsys.readouterr().out
    (preview,) = (tmp_path / "out").glob("diffusion-*/previews/step-000002.png")
    assert Image.open(preview).size[1] == 64
    lora = tmp_path / "out" / "fluxduel.safetensors"
    assert all(torch.isfinite(tensor).all() for tensor in load_file(lora).values())
    base = ["--base.checkpoint", str(folder), "--base.precision=fp32", "--base.device=cpu"]
    prompt = ["--prompt", "a small red cat", "--width=64", "--height=32", "--steps=2", "--out", str(tmp_path / "drawn")]
    assert main(["sample", "--lora", str(lora), *base, *prompt]) == 0, capsys.readouterr().err
    assert Image.open(tmp_path / "drawn" / "01-steps2-seed0.png").size == (64, 32)
