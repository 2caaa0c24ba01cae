"""Graphs on FLUX.2: klein base is trained in two stages, and looked at on the distilled klein that it is used on; or
stage 2 trains on distilled klein itself."""

from __future__ import annotations

from dataclasses import replace

from .pieces import (
    HUB,
    OWN_LORA,
    OWN_PICTURES,
    STAGE_1,
    accumulated,
    chained,
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
MORE = f"""Needs ComfyUI 0.9.2 and diffusers 0.37. For 12 GB: bf16 at {SIDE} px; counted, not measured yet. \
**precision** auto takes int8_convrot where that does not fit, and the panel tells how long it takes. The LoRA comes \
to **output/loras/**.

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


# Of all kinds, and none of them of what a LoRA is likely to be for.
MEDIA = (
    "a photo of", "an oil painting of", "a watercolour of", "a pencil drawing of", "a 3d render of",
    "a comic panel with", "an old black and white photo of", "pixel art of", "a clay model of",
    "a flat vector picture of", "a woodcut of", "",
)  # fmt: skip
SUBJECTS = (
    "a red bicycle against a brick wall", "a bowl of ramen seen from above", "a harbour at dusk",
    "an old man with a grey beard", "a cat asleep on a chair", "a mountain lake in the morning mist",
    "a shop sign that says OPEN", "a small robot in a greenhouse", "a busy street in the rain at night",
    "tulips in a glass vase", "a library with tall windows", "an eagle in flight", "a woman in a yellow raincoat",
    "a dog on a beach", "a steam train on a bridge", "a pile of books on a desk", "a lighthouse in a storm",
    "apples and pears in a basket",
)  # fmt: skip
# So many subjects of each medium, by turns.
EACH = 6
OUTSIDE = "\n".join(
    f"{medium} {SUBJECTS[(EACH * place + k) % len(SUBJECTS)]}".strip()
    for place, medium in enumerate(MEDIA)
    for k in range(EACH)
)
DISTILLED_NOTE = f"""## FLUX.2 klein 4B, distilled

Choose a LoRA of klein base in *Load FLUX LoRA*, **lora**, such as stage 1's of *FLUX.2 klein LoRA, 12 GB*, and its \
pictures. Stage 2 trains it on distilled klein: with **target** distilled each sample is drawn from noise in {STEPS} \
steps, and judged.

**outside_prompts**, in *Encode Real Latents*, are of what the LoRA is not for: there it is held to klein without it. \
Better are your own captions with other words in place of the style's or the subject's, and with none.

For a LoRA that is weak on distilled klein. What this gains there was not measured. On small models it \
nearly halved the Fréchet distance to the style where the two are far apart, and changed little where they are near. \
The sheet shows before and after, and the watch delivers the start where no state is better.

Needs ComfyUI 0.9.2 and diffusers 0.37. For 12 GB: bf16 at {SIDE} px; counted, not measured. Sample as in training: \
*SamplerCustom*, **euler**, *Flux2Scheduler* with {STEPS} steps, cfg 1, strength 1.0.

{files(DISTILLED, QWEN3, VAE)}. Distilled klein 4B is under the Apache 2.0 licence.
"""


def klein_distilled() -> Template:
    stage = refine("judged", "lora", target_steps=STEPS)
    return Template(
        name="FLUX.2 klein LoRA, distilled",
        label="klein 4B distilled",
        note=DISTILLED_NOTE,
        note_height=600,
        nodes={
            "lora": load_lora(DISTILLED, lora=OWN_LORA),
            "clip": Node("CLIPLoader", {"clip_name": QWEN3["name"], "type": "flux2"}, models=(QWEN3,)),
            "vae": Node("VAELoader", {"vae_name": VAE["name"]}, models=(VAE,)),
            **data(OWN_PICTURES, ENCODERS, resolution=SIDE, outside_prompts=OUTSIDE),
            "optimiser": accumulated(),
            # Held outside in each update, and not to the LoRA at the start, which is what is too weak.
            "adversarial": Node(
                "FluxDuelAdversarialOptions", {"objective": "pure"}, chained("optimiser"), folded=True
            ),
            "judged": Node("FluxDuelJudgedSampleOptions", {"outside_share": 1.0}, chained("adversarial"), folded=True),
            "discriminator": judge(),
            "stage 2": replace(stage, values={**stage.values, "target": "distilled", "steps": 500}),
            "save": save("stage 2", "loras/fluxduel_klein_distilled"),
            "compare": compare(("lora", "stage 2"), ENCODERS[1], names="before, after", step_counts=str(STEPS)),
        },
        groups=(
            Group("1 Data", (("lora", "pictures"), ("clip", "vae", "optimiser", "encode")), 250),
            Group("2 Stage 2", (("adversarial", "judged", "discriminator", "stage 2"),), 300),
            Group("3 Result", (("compare", "save"),), 310),
        ),
    )
