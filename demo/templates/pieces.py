"""What several templates are made of: FLUX's files, the data, saving, comparing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .spec import Node

HUB = "https://huggingface.co"
TRANSFORMER = {
    "name": "flux1-dev.safetensors",
    "url": f"{HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors",
    "directory": "diffusion_models",
}
CLIP_L = {
    "name": "clip_l.safetensors",
    "url": f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors",
    "directory": "text_encoders",
}
T5 = {
    "name": "t5xxl_fp16.safetensors",
    "url": f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors",
    "directory": "text_encoders",
}
VAE = {
    "name": "ae.safetensors",
    "url": f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    "directory": "vae",
}


def files(*models: Mapping[str, str]) -> str:
    """Where the user finds these models, and where they go."""
    listed = (f"**{model['directory']}/** [{model['name']}]({model['url']})" for model in models)
    return "Files, in **ComfyUI/models/**: " + ", ".join(listed)


FILES = files(TRANSFORMER, CLIP_L, T5, VAE)
STAGE_1 = {"steps": 1000, "learning_rate": 1e-4, "batch_size": 1}
OWN_LORA = "my_lora.safetensors"
OWN_PICTURES = "my_pictures"


def flux_encoders() -> dict[str, Node]:
    """The text encoders and the VAE of FLUX.1."""
    return {
        "clip": Node(
            "DualCLIPLoader",
            {"clip_name1": CLIP_L["name"], "clip_name2": T5["name"], "type": "flux"},
            models=(CLIP_L, T5),
        ),
        "vae": Node("VAELoader", {"vae_name": VAE["name"]}, models=(VAE,)),
    }


def load_lora(model: Mapping[str, str] = TRANSFORMER, **values: Any) -> Node:
    """A base, FLUX.1-dev where no other is named, with a LoRA on it."""
    usual = {"checkpoint": model["name"], "targets": "attention+mlp"}
    return Node("FluxDuelLoadFluxLoRA", usual | values, models=(model,))


def data(folder: str, encoders: tuple[tuple[str, str], tuple[str, str]], **encode: Any) -> dict[str, Node]:
    """Pictures of a folder, encoded. ``encoders``: where the CLIP and the VAE come from."""
    names = ("images", "captions", "masks", "names")
    return {
        "pictures": Node("FluxDuelLoadTrainingImages", {"folder": folder}),
        "encode": Node(
            "FluxDuelEncodeRealLatents",
            encode,
            {name: ("pictures", name) for name in names} | {"clip": encoders[0], "vae": encoders[1]},
        ),
    }


def train(values: Mapping[str, Any], options: str = "") -> Node:
    """Stage 1 from the loaded LoRA. ``options``: the last option node of its chain."""
    wires = {"flux_lora": ("lora", "flux_lora"), "real_latents": ("encode", "real_latents")}
    return Node("FluxDuelTrainDiffusionStage", values, wires | chained(options))


def judge() -> Node:
    """The discriminator of stage 2 on a real FLUX."""
    return Node("FluxDuelLatentDiscriminator", {"learning_rate": 2e-4}, folded=True)


def refine(options: str, start: str = "stage 1", target_steps: int = 25) -> Node:
    """Stage 2 on a real FLUX from the LoRA of ``start``."""
    return Node(
        "FluxDuelTrainAdversarialStage",
        {"target_steps": target_steps, "steps": 300, "learning_rate": 2e-5, "batch_size": 1},
        {
            "flux_lora": (start, "flux_lora"), "real_latents": ("encode", "real_latents"),
            "discriminator": ("discriminator", "discriminator"), **chained(options),
        },
    )  # fmt: skip


def accumulated() -> Node:
    """Four pictures for each update, one at a time."""
    return Node("FluxDuelOptimiserOptions", {"gradient_accumulation": 4}, folded=True)


def drawn_on(sibling: str, node: Node) -> Node:
    """The node, sampling on the base of the node ``sibling``."""
    return replace(node, wires={**node.wires, "sampling_base": (sibling, "flux_lora")})


def chained(options: str) -> dict[str, tuple[str, str]]:
    """The wire that an option node gives to the next node, if there is one."""
    return {"options": (options, "options")} if options else {}


def save(stage: str, prefix: str) -> Node:
    """The LoRA of a stage as a file."""
    return Node("FluxDuelSaveLoRA", {"prefix": prefix}, {"flux_lora": (stage, "flux_lora")})


def compare(loras: tuple[str, ...], vae: tuple[str, str], **values: Any) -> Node:
    """All of these LoRAs with the captions of the encoded pictures as prompts, and the pictures themselves."""
    sockets = ("flux_lora", *(f"flux_lora_{number}" for number in range(2, len(loras) + 1)))
    wires = {socket: (lora, "flux_lora") for socket, lora in zip(sockets, loras, strict=True)}
    return Node("FluxDuelCompareFluxLoRAs", values, wires | {"real_latents": ("encode", "real_latents"), "vae": vae})
