"""A model in one file: loaded whole, and without a word about nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from fluxduel.training.base.single_files import load_single_file

CONFIG = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 16, "block_out_channels": [32], "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"], "layers_per_block": 1,
}  # fmt: skip


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def test_a_healthy_load_says_nothing_and_what_is_of_use_is_still_said(tmp_path: Path) -> None:
    made = AutoencoderKL(**CONFIG)
    save_file(made.state_dict(), tmp_path / "vae.safetensors")
    kept, logger = Kept(), logging.getLogger("diffusers")
    warner = logging.getLogger("diffusers.models.modeling_utils")
    filters = list(warner.filters)
    logger.addHandler(kept)
    try:
        found = load_single_file(AutoencoderKL, tmp_path / "vae.safetensors", CONFIG, torch.float32)
        assert kept.texts == []
        assert all(torch.equal(weight, found.state_dict()[name]) for name, weight in made.state_dict().items())
        warner.warning("There are modules in X that should be kept in float32: ['norm'].")
        assert len(kept.texts) == 1 and warner.filters == filters
    finally:
        logger.removeHandler(kept)
