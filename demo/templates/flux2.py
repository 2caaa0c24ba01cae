"""A graph on FLUX.2: klein base is trained in two stages, and looked at on the distilled klein that it is used on."""

from __future__ import annotations

from dataclasses import replace

from .pieces import (
    HUB,
    OWN_PICTURES,
    STAGE_1,
    accumulated,
    compare,
    data,
    drawn_on,
    files,
    judge,
    load_lora,
    refine,
    save,
    train,
)
from .spec import Group, Node, Template

REPACKED = f"{HUB}/Comfy-Org/flux2-klein/resolve/main/split_files"
BASE = {
    "name": "flux-2-klein-base-4b.safetensors",
    "url": f"{REPACKED}/diffusion_models/flux-2-klein-base-4b.safetensors",
    "directory": "diffusion_models",
}
DISTILLED = {
    "name": "flux-2-klein-4b.safetensors",
    "url": f"{REPACKED}/diffusion_models/flux-2-klein-4b.safetensors",
    "directory": "diffusion_models",
}
QWEN3 = {
    "name": "qwen_3_4b.safetensors",
    "url": f"{REPACKED}/text_encoders/qwen_3_4b.safetensors",
    "directory": "text_encoders",
}
VAE = {
    "name": "flux2-vae.safetensors",
    "url": f"{HUB}/Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
    "directory": "vae",
}
ENCODERS = (("clip", "CLIP"), ("vae", "VAE"))
SIDE = 1024
SIBLING, STEPS = "distilled", 4

NOTE = f"""## FLUX.2 klein 4B, 12 GB

Choose your pictures. Klein base is trained; previews show distilled klein in {STEPS} steps. Try **steps** 20 first.
"""
MORE = f"""Needs ComfyUI 0.9.2. For 12 GB: bf16 at {SIDE} px; counted, not measured yet. **precision** auto takes \
int8_convrot where that does not fit, and the panel tells how long it takes. The LoRA comes to **output/loras/**.

What stage 2 gains on klein was not measured; its watch looks at distilled klein, too, and delivers stage 1's LoRA \
where that is better. The sheet at the end is klein base's.

Sample with the LoRA on distilled klein: *SamplerCustom*, **euler**, *Flux2Scheduler* with {STEPS} steps, cfg 1, \
strength 1.0. To look on klein base instead, delete *Distilled klein*: previews then take cfg 4.

Pictures: a folder of **ComfyUI/input** with 10 to 50, each with its caption in a **.txt** file of the same name.

{files(BASE, DISTILLED, QWEN3, VAE)}.

Klein 4B, base and distilled, is under the Apache 2.0 licence.
"""


def klein() -> Template:
    return Template(
        name="FLUX.2 klein LoRA, 12 GB",
        label="klein 4B",
        note=NOTE,
        note_height=128,
        more=MORE,
        nodes={
            "lora": load_lora(BASE),
            SIBLING: replace(load_lora(DISTILLED), title="Distilled klein", folded=True),
            "clip": Node("CLIPLoader", {"clip_name": QWEN3["name"], "type": "flux2"}, models=(QWEN3,)),
            "vae": Node("VAELoader", {"vae_name": VAE["name"]}, models=(VAE,)),
            **data(OWN_PICTURES, ENCODERS, resolution=SIDE),
            "optimiser": accumulated(),
            "stage 1": drawn_on(SIBLING, train(STAGE_1, "optimiser")),
            "discriminator": judge(),
            "stage 2": drawn_on(SIBLING, refine("optimiser", target_steps=STEPS)),
            "save": save("stage 2", "loras/fluxduel_klein"),
            "compare": compare(("lora", "stage 1", "stage 2"), ENCODERS[1], step_counts="4, 25"),
        },
        groups=(
            Group("1 Data", (("lora", "pictures"), ("clip", "vae", SIBLING, "optimiser", "encode")), 250),
            Group("2 Stage 1", (("stage 1",),), 290, under_note=True),
            Group("3 Stage 2", (("discriminator", "stage 2"),), 300),
            Group("4 Result", (("compare", "save"),), 310),
        ),
    )
