"""Graphs on FLUX.1-dev: trained in two stages or one, from scratch or from a LoRA, compared, used."""

from __future__ import annotations

from dataclasses import dataclass

from .pieces import (
    CLIP_L,
    FILES,
    OWN_LORA,
    OWN_PICTURES,
    STAGE_1,
    T5,
    TRANSFORMER,
    VAE,
    accumulated,
    chained,
    compare,
    data,
    flux_encoders,
    judge,
    load_lora,
    refine,
    save,
    train,
)
from .spec import Group, Node, Template

ENCODERS = (("clip", "CLIP"), ("vae", "VAE"))
PICTURES = (
    "Pictures: choose a folder of **ComfyUI/input** with 10 to 50, each with its caption in a **.txt** file of the "
    "same name, or drop them onto the node."
)
HOW_TO_SAMPLE = (
    "With KSampler: sampler **euler**, scheduler **simple**, **target_steps** steps, strength 1.0, and "
    "*ModelSamplingFlux* before it: see the template *Use a trained LoRA*."
)


@dataclass(frozen=True)
class Card:
    """What a card has room for. ``streamed``: share of the base's blocks that wait in the computer's memory."""

    gigabytes: int
    side: int
    streamed: float


CARDS = (Card(24, 1024, 0.0), Card(12, 768, 0.45), Card(8, 512, 0.7))


def two_stages(card: Card) -> Template:
    share = {"streamed_share": card.streamed}
    memory = {"memory": Node("FluxDuelMemoryOptions", share, chained("optimiser"), folded=True)}
    options = memory if card.streamed else {}
    last = "memory" if card.streamed else "optimiser"
    streamed = f", {card.streamed:.0%} of the blocks streamed" if card.streamed else ""
    counted = f"int8_convrot at {card.side} px{streamed}"
    note = f"""## FLUX.1-dev, {card.gigabytes} GB

Choose your pictures. **target_steps**: the steps you will sample with. Try **steps** 20 first.
"""
    more = f"""For {card.gigabytes} GB: {counted}; counted, not measured yet. Else **precision** auto. The panel tells \
how long it takes. The LoRA comes to **output/loras/**; see the template *Use a trained LoRA*.

{PICTURES}

{FILES}.

FLUX.1-dev's licence covers what you train on it.
"""
    return Template(
        name=f"FLUX.1-dev LoRA, {card.gigabytes} GB",
        label=f"{card.gigabytes} GB",
        note=note,
        note_height=128,
        more=more,
        nodes={
            "lora": load_lora(precision="int8_convrot"),
            **flux_encoders(),
            **data(OWN_PICTURES, ENCODERS, resolution=card.side),
            "optimiser": accumulated(),
            **options,
            "stage 1": train(STAGE_1, last),
            "discriminator": judge(),
            "stage 2": refine(last),
            "save": save("stage 2", "loras/fluxduel_flux"),
            "compare": compare(("lora", "stage 1", "stage 2"), ENCODERS[1], step_counts="4, 25"),
        },
        groups=(
            Group("1 Data", (("lora", "pictures"), ("clip", "vae", "optimiser", *options, "encode")), 250),
            Group("2 Stage 1", (("stage 1",),), 290, under_note=True),
            Group("3 Stage 2", (("discriminator", "stage 2"),), 300),
            Group("4 Result", (("compare", "save"),), 310),
        ),
    )  # fmt: skip


def stage_1_only() -> Template:
    note = f"""## Stage 1 only

An ordinary LoRA, trained with the flow-matching loss: for any sampler, any number of steps.

{FILES}.

{PICTURES}

**precision** auto fits the base to your card. The panel shows the held-out flow loss: stop where it rises. The LoRA \
is in **output/loras/**. For stage 2, go on with the template *Continue a LoRA* or one of those for your card.
"""
    return Template(
        name="Stage 1 only",
        label="stage 1 only",
        note=note,
        note_height=600,
        nodes={
            "lora": load_lora(),
            **flux_encoders(),
            **data(OWN_PICTURES, ENCODERS),
            "optimiser": accumulated(),
            "stage 1": train(STAGE_1, "optimiser"),
            "save": save("stage 1", "loras/fluxduel_stage1"),
            "compare": compare(("lora", "stage 1"), ENCODERS[1], step_counts="25"),
        },
        groups=(
            Group("1 Data", (("lora", "pictures"), ("clip", "vae", "optimiser", "encode")), 250),
            Group("2 Stage 1", (("stage 1",),), 290),
            Group("3 Result", (("compare", "save"),), 310),
        ),
    )


def continue_a_lora() -> Template:
    note = f"""## Continue a LoRA

Choose your file in *Load FLUX LoRA*, **lora**: this pack's, diffusers' or kohya's format. Rank, alpha and layers \
come from the file. The file itself is not changed.

{PICTURES} Stage 2 then refines it for the number of steps that **target_steps** says.

{HOW_TO_SAMPLE} The files of FLUX.1-dev are those of *Stage 1 only*.

The sheet shows the LoRA before and after; the result is in **output/loras/**.
"""
    return Template(
        name="Continue a LoRA",
        label="continue",
        note=note,
        note_height=600,
        nodes={
            "lora": load_lora(lora=OWN_LORA),
            **flux_encoders(),
            **data(OWN_PICTURES, ENCODERS),
            "discriminator": judge(),
            "optimiser": accumulated(),
            "stage 2": refine("optimiser", "lora"),
            "save": save("stage 2", "loras/fluxduel_continued"),
            "compare": compare(("lora", "stage 2"), ENCODERS[1], names="before, after", step_counts="4, 25"),
        },
        groups=(
            Group("1 Data", (("lora", "pictures"), ("clip", "vae", "optimiser", "encode")), 250),
            Group("2 Stage 2", (("discriminator", "stage 2"),), 300),
            Group("3 Result", (("compare", "save"),), 310),
        ),
    )  # fmt: skip


def compare_loras() -> Template:
    note = """## Compare LoRAs

Choose the two files in *LoRA A* and *LoRA B*; *Base* has none. Write one prompt a line in *Compare FLUX LoRAs*, and \
the numbers of steps, samplers and seeds that you want columns for. All pictures of a column begin with the same \
noise.

Drag over a picture to wipe between any two. Up to six LoRAs: connect more *Load FLUX LoRA*. Nothing is trained \
here; the sheet can be saved with *Save Image*.
"""
    loras = {
        key: load_lora(lora=file, **({} if file != "none" else {"rank": 4}))
        for key, file in (("Base", "none"), ("LoRA A", OWN_LORA), ("LoRA B", "my_lora_2.safetensors"))
    }
    titled = {key: Node(node.kind, node.values, title=key, models=node.models) for key, node in loras.items()}
    sockets = zip(("flux_lora", "flux_lora_2", "flux_lora_3"), titled, strict=True)
    return Template(
        name="Compare LoRAs",
        label="compare",
        note=note,
        note_height=400,
        nodes={
            **titled,
            **flux_encoders(),
            "compare": Node(
                "FluxDuelCompareFluxLoRAs",
                {"prompts": "a portrait of an old sailor\na street in the rain at night", "names": "base, A, B",
                 "width": 1024, "height": 1024, "seeds": "0, 1"},
                {socket: (key, "flux_lora") for socket, key in sockets}
                | {"clip": ("clip", "CLIP"), "vae": ("vae", "VAE")},
            ),
        },
        groups=(
            Group("1 LoRAs", (("Base", "LoRA A"), ("LoRA B", "clip", "vae")), 280),
            Group("2 Result", (("compare",),), 520),
        ),
    )  # fmt: skip


def use_a_lora() -> Template:
    note = """## Use a trained LoRA

Choose the LoRA in *Load LoRA* (press R after a training) and write a prompt in the words of your captions.

Stage 2 trains for one way to sample, which its **how_to_sample** names: sampler **euler**, scheduler **simple**, \
**target_steps** steps (25 here), its guidance, strength 1.0, and *ModelSamplingFlux* with the picture's size. A \
LoRA of stage 1 is for any sampler. A **few_step_phrase** goes before the prompt.
"""
    size = {"width": 1024, "height": 1024}
    return Template(
        name="Use a trained LoRA",
        label="use",
        note=note,
        note_height=230,
        nodes={
            "unet": Node("UNETLoader", {"unet_name": TRANSFORMER["name"]}, models=(TRANSFORMER,)),
            "lora": Node(
                "LoraLoaderModelOnly",
                {"lora_name": OWN_LORA, "strength_model": 1.0},
                {"model": ("unet", "MODEL")},
                title="Load LoRA",
            ),
            "shift": Node("ModelSamplingFlux", size, {"model": ("lora", "MODEL")}),
            "clip": Node(
                "DualCLIPLoader",
                {"clip_name1": CLIP_L["name"], "clip_name2": T5["name"], "type": "flux"},
                models=(CLIP_L, T5),
            ),
            "vae": Node("VAELoader", {"vae_name": VAE["name"]}, models=(VAE,)),
            "prompt": Node(
                "CLIPTextEncode", {"text": "a photo in the style of my pictures"}, {"clip": ("clip", "CLIP")},
                title="Prompt", height=150,
            ),
            "guidance": Node("FluxGuidance", {"guidance": 3.5}, {"conditioning": ("prompt", "CONDITIONING")}),
            "empty": Node(
                "CLIPTextEncode", {"text": ""}, {"clip": ("clip", "CLIP")}, title="No negative prompt", height=120
            ),
            "latent": Node("EmptySD3LatentImage", size),
            "sample": Node(
                "KSampler",
                {"steps": 25, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
                {
                    "model": ("shift", "MODEL"), "positive": ("guidance", "CONDITIONING"),
                    "negative": ("empty", "CONDITIONING"), "latent_image": ("latent", "LATENT"),
                },
            ),
            "decode": Node("VAEDecode", {}, {"samples": ("sample", "LATENT"), "vae": ("vae", "VAE")}),
            "picture": Node(
                "SaveImage", {"filename_prefix": "fluxduel/picture"}, {"images": ("decode", "IMAGE")}, height=420
            ),
        },
        groups=(
            Group("1 Model", (("unet", "lora", "shift"), ("clip", "vae")), 250, under_note=True),
            Group("2 Prompt", (("prompt", "guidance", "empty", "latent"),), 270),
            Group("3 Result", (("sample", "decode"), ("picture",)), 270),
        ),
    )  # fmt: skip


def flux_templates() -> tuple[Template, ...]:
    return (*map(two_stages, CARDS), stage_1_only(), continue_a_lora(), use_a_lora(), compare_loras())
