"""The demo's last page: subjects that were not trained on, as they are and as each arm draws them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.base.sampler import sample
from fluxduel.training.base.solvers import SOLVERS
from fluxduel.training.config import TINY_BASE
from fluxduel.training.data.tiny_encoders import TinyEncoders
from fluxduel.training.lora.adapter import attach
from fluxduel.training.lora.importing import load_file

from .pictures import unseen

SIDE, GAP, LABEL_WIDTH, HEADER = 128, 4, 130, 52
FEW, MANY = 4, 25
# That of the graph's samples, which stage 2 is trained for; FLUX.1-dev is sampled at it, too.
GUIDANCE = 3.5
# What ComfyUI's users choose among for nothing: one evaluation of the base a step, as Euler.
STOCK = tuple(solver for solver in SOLVERS if solver not in ("euler", "heun", "ab2"))
# Each subject is drawn from so many noises, of which the sheet shows the first.
SEEDS = 4


@dataclass(frozen=True)
class Arm:
    """One way of drawing: its name on the sheet, pictures (subjects, SEEDS, 3, H, W) in [0, 1], and two measures."""

    name: str
    pictures: Tensor
    distance: float
    sharpness: float


def draw_arms(stage_1: Path, stage_2: Path, guidance: float = GUIDANCE) -> list[Arm]:
    """What base, stage 1 and stage 2 make of the unseen captions.

    Stage 1 with few steps is also drawn with every other stock solver; the nearest to the truth stands for them.
    """
    reference = BaseReference(TINY_BASE, "fp32")
    base, encoders = load_base(reference, "cpu"), TinyEncoders("cpu")
    truths = torch.stack([_pixels(picture) for picture in unseen().values()])
    prompts = [encoders.encode_prompt(caption) for caption in unseen()]

    def arm(name: str, steps: int, solver: str = "euler") -> Arm:
        pictures = _draw(base, encoders, prompts, steps, guidance, solver)
        return Arm(name, pictures, paired_distance(pictures, truths), sharpness(pictures, truths))

    arms = [arm(f"base\neuler {MANY}", MANY)]
    attach(base, load_file(stage_1, reference))
    first = arm(f"stage 1\neuler {FEW}", FEW)
    others = [arm(f"stage 1\n{solver} {FEW}", FEW, solver) for solver in STOCK]
    arms += [first, min(others, key=lambda each: each.distance), arm(f"stage 1\neuler {MANY}", MANY)]
    attach(base, load_file(stage_2, reference))
    return [*arms, arm(f"stage 2\neuler {FEW}", FEW)]


def paired_distance(pictures: Tensor, truths: Tensor) -> float:
    """Root mean square difference of pictures (N, S, 3, H, W) from truths (N, 3, H, W), at a quarter of the size.

    The mean over subjects and seeds of each picture's own; 0 to 1, values being in [0, 1].
    """
    subjects, seeds = pictures.shape[:2]
    small = torch.nn.functional.avg_pool2d(pictures.flatten(0, 1), 4).unflatten(0, (subjects, seeds))
    difference = small - torch.nn.functional.avg_pool2d(truths, 4)[:, None]
    return float(difference.square().flatten(2).mean(2).sqrt().mean())


def sharpness(pictures: Tensor, truths: Tensor) -> float:
    """What a blur of 5 x 5 pixels takes from pictures (N, S, 3, H, W), over what it takes from truths (N, 3, H, W).

    As root mean squares over all of them; 1 where pictures have as much fine detail as the truth, right or wrong.
    """

    def fine(images: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
        return (images - torch.nn.functional.avg_pool2d(wide, 5, 1)).square().mean().sqrt()

    return float(fine(pictures.flatten(0, 1)) / fine(truths))


def sheet(arms: list[Arm]) -> Image.Image:
    """One row a subject: its true picture, then one picture of each arm."""
    truths = unseen()
    columns = ["truth", *(arm.name for arm in arms)]
    step = SIDE + GAP
    page = Image.new("RGB", (LABEL_WIDTH + len(columns) * step, HEADER + len(truths) * step), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for column, name in enumerate(columns):
        draw.text((LABEL_WIDTH + column * step + 6, 6), name, "black", font)
    for row, (caption, truth) in enumerate(truths.items()):
        top = HEADER + row * step
        draw.text((8, top + SIDE // 2 - 20), _broken(caption), "black", font)
        page.paste(truth.resize((SIDE, SIDE)), (LABEL_WIDTH, top))
        for column, arm in enumerate(arms, 1):
            page.paste(_image(arm.pictures[row, 0]), (LABEL_WIDTH + column * step, top))
    return page


def measures(arms: list[Arm]) -> str:
    """The arms' distances and sharpness as lines of text."""
    head = f"{len(unseen())} unseen subjects, {SEEDS} noises each; a blur makes the distance small too"
    lines = [
        f"  {arm.name.replace(chr(10), ', '):28} distance {arm.distance:.3f}   sharpness {arm.sharpness:.2f}"
        for arm in arms
    ]
    return "\n".join((head, *lines))


def _draw(
    base: FluxBase,
    encoders: TinyEncoders,
    prompts: list[tuple[Tensor, Tensor]],
    steps: int,
    guidance: float,
    solver: str,
) -> Tensor:
    side = SIDE // FLUX_1.factor
    drawn = []
    for embeds, pooled in prompts:
        latents = sample(
            base,
            embeds,
            pooled,
            height=side,
            width=side,
            steps=steps,
            seeds=range(SEEDS),
            guidance=guidance,
            solver=solver,
        )
        drawn.append(encoders.decode(latents).movedim(-1, 1).clamp(0, 1))
    return torch.stack(drawn)


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.resize((SIDE, SIDE)))).movedim(-1, 0).float() / 255


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.movedim(0, -1) * 255).round().byte().numpy())


def _broken(caption: str) -> str:
    lines = [""]
    for word in caption.split():
        if len(lines[-1]) + len(word) > 13:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
