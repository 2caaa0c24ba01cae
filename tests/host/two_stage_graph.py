"""The whole graph on the built-in base, as small as it can be, and a folder of pictures to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fluxduel.training.config import (
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
)

Graph = dict[str, dict[str, Any]]

LORA, ENCODERS, IMAGES, LATENTS, STAGE_1, DISCRIMINATOR, STAGE_2, SAVE = "1", "2", "3", "4", "5", "6", "7", "8"
PLOT, SHOW_PLOT, PROMPT, SAMPLE, DECODE, SHOW_SAMPLES = "9", "10", "11", "12", "13", "14"


def write_pictures(folder: Path, count: int = 6) -> Path:
    """``count`` different pictures of 64 x 64 with captions."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(folder / f"picture{number}.png")
        (folder / f"picture{number}.txt").write_text(f"picture number {number}")
    return folder


def two_stage_graph(folder: str, prefix: str = "loras/test") -> Graph:
    """Both stages, the saved LoRA, the plot and samples."""
    return training_graph(folder) | {
        DISCRIMINATOR: node(
            "FluxDuelLatentDiscriminator", options(DiscriminatorConfig, width=8) | {"continue_from": "new"}
        ),
        STAGE_2: node(
            "FluxDuelTrainAdversarialStage",
            {"flux_lora": [STAGE_1, 0], "real_latents": [LATENTS, 0], "discriminator": [DISCRIMINATOR, 0]}
            | options(AdversarialStageConfig, steps=2, discriminator_warmup=1, validate_every=1),
        ),
        SAVE: save_node([STAGE_2, 0], prefix),
        PLOT: node("FluxDuelPlotTrainingLog", {"log": [STAGE_1, 1], "log_2": [STAGE_2, 1]}),
        SHOW_PLOT: node("PreviewImage", {"images": [PLOT, 0]}),
        PROMPT: node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "a picture"}),
        SAMPLE: node(
            "FluxDuelSampleFluxLoRA",
            {
                "flux_lora": [STAGE_2, 0],
                "conditioning": [PROMPT, 0],
                "width": 64,
                "height": 48,
                "steps": "1, 2",
                "count": 2,
                "seed": 0,
                "guidance": 1.0,
                "sampler": "euler",
            },
        ),
        DECODE: node("VAEDecode", {"samples": [SAMPLE, 0], "vae": [ENCODERS, 1]}),
        SHOW_SAMPLES: node("PreviewImage", {"images": [DECODE, 0]}),
    }


def training_graph(folder: str, prefix: str = "loras/test-stage1", **stage: Any) -> Graph:
    """Stage 1 alone, saved."""
    return {
        LORA: lora_node(),
        ENCODERS: node("FluxDuelLoadTinyFluxEncoders"),
        IMAGES: node(
            "FluxDuelLoadTrainingImages",
            {"folder": folder, "caption_rule": "text file", "trigger_word": "", "mask_rule": "none"},
        ),
        LATENTS: node(
            "FluxDuelEncodeRealLatents",
            {
                "images": [IMAGES, 0],
                "captions": [IMAGES, 1],
                "masks": [IMAGES, 2],
                "names": [IMAGES, 4],
                "clip": [ENCODERS, 0],
                "vae": [ENCODERS, 1],
            }
            | options(DataConfig, resolution=64, held_out_share=0.2),
        ),
        STAGE_1: node(
            "FluxDuelTrainDiffusionStage",
            {"flux_lora": [LORA, 0], "real_latents": [LATENTS, 0]}
            | options(DiffusionStageConfig, **{"steps": 3, "batch_size": 2, "validate_every": 1, **stage}),
        ),
        SAVE: save_node([STAGE_1, 0], prefix),
    }


def lora_node(**changes: Any) -> dict[str, Any]:
    """Load FLUX LoRA on the tiny base, at rank 2."""
    inputs = {
        "checkpoint": "tiny base (built in)",
        "precision": "fp32",
        "rank": 2,
        "alpha": 2.0,
        "targets": "attention",
        "seed": 0,
        "lora": "none",
        "target_regex": "",
    }
    return node("FluxDuelLoadFluxLoRA", inputs | changes)


def save_node(lora: list[Any], prefix: str) -> dict[str, Any]:
    return node("FluxDuelSaveLoRA", {"flux_lora": lora, "prefix": prefix, "format": "diffusers", "dtype": "fp32"})


def options(config: type[Config], **changes: Any) -> dict[str, Any]:
    """Widget values: the configuration's defaults, with changes."""
    return vars(config(**changes))


def node(kind: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs or {}}
