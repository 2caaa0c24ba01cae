"""Two stages on the built-in base: the graph that runs after nothing but the installation."""

from __future__ import annotations

from .pieces import chained, compare, data, save, train
from .spec import Group, Node, Template

PRACTICE = """3d anchor
3d artist palette
3d backpack
3d bell
3d bouquet
3d bread
3d bug
3d burrito
3d cactus
3d camera
3d carrot
3d christmas tree
3d crescent moon
3d croissant
3d dog
3d dolphin
3d elephant
3d fox
3d gear
3d grapes
3d guitar
3d helicopter
3d horse face
3d hourglass done
3d key
3d lemon
3d lion
3d panda
3d pizza
3d rabbit
3d radio
3d rainbow
3d roller coaster
3d sunflower
3d television
3d umbrella"""

NOTE = """## Press Run

Forty pictograms, both stages, about five minutes on a CPU. The LoRA comes to **output/loras/**. The tiny base is a \
toy: it shows the method, not FLUX's quality.
"""


def tiny(demo_label: str, base_label: str) -> Template:
    """``demo_label``, ``base_label``: what the nodes call the pictures and the base that come with the pack."""
    encoders = (("encoders", "CLIP"), ("encoders", "VAE"))
    return Template(
        name="A first run on the tiny base",
        label="first run",
        note=NOTE,
        note_height=172,
        nodes={
            "lora": Node(
                "FluxDuelLoadFluxLoRA",
                {"checkpoint": base_label, "precision": "fp32", "rank": 32, "alpha": 32, "targets": "all"},
            ),
            "encoders": Node("FluxDuelLoadTinyFluxEncoders"),
            **data(demo_label, encoders, resolution=128, held_out_share=0.125, practice_prompts=PRACTICE),
            "watch": Node("FluxDuelWatchOptions", {"validate_every": 50}, folded=True),
            "memory": Node("FluxDuelMemoryOptions", {"gradient_checkpointing": False}, chained("watch"), folded=True),
            "optimiser": Node(
                "FluxDuelOptimiserOptions",
                {"lr_schedule": "cosine", "lr_warmup_steps": 20},
                chained("memory"),
                folded=True,
            ),
            "stage 1": train({"steps": 200, "learning_rate": 4e-4, "batch_size": 8, "preview_every": 100}, "optimiser"),
            "noise": Node("FluxDuelNoiseOptions", {"guidance": 3.5}, chained("memory"), folded=True),
            "adversarial": Node("FluxDuelAdversarialOptions", {"anchor": "start"}, chained("noise"), folded=True),
            "discriminator": Node("FluxDuelLatentDiscriminator", {"learning_rate": 3e-3}, folded=True),
            "stage 2": Node(
                "FluxDuelTrainAdversarialStage",
                {
                    "target_steps": 4, "steps": 200, "adversarial_weight": 3, "learning_rate": 2e-4, "batch_size": 4,
                    "preview_every": 50,
                },
                {
                    "flux_lora": ("stage 1", "flux_lora"), "real_latents": ("encode", "real_latents"),
                    "discriminator": ("discriminator", "discriminator"), **chained("adversarial"),
                },
            ),
            "save": save("stage 2", "loras/fluxduel_tiny"),
            "compare": compare(("lora", "stage 1", "stage 2"), encoders[1], width=128, height=128, seeds="0, 1"),
        },
        groups=(
            Group(
                "1 Data and options",
                (("lora", "pictures"), ("encoders", "watch", "memory", "optimiser", "noise", "adversarial", "encode")),
                250,
            ),
            Group("2 Stage 1", (("stage 1",),), 290, under_note=True),
            Group("3 Stage 2", (("discriminator", "stage 2"),), 300),
            Group("4 Result", (("compare", "save"),), 310),
        ),
    )  # fmt: skip
