"""The built-in base's siblings for four steps: the same layers, taught in one step what takes the base several.

Progressive distillation (Salimans and Ho 2022, arXiv:2202.00512, section 3) straight to the few steps, from where the
student itself comes to in them. It needs no picture: only captions, and the base's own answers at its guidance, which
become part of the student, as they do in FLUX.1-schnell and the distilled FLUX.2 klein. How far the weights go from the
base's is open to whoever distils, and decides how much of a LoRA of the base is lost: there is a sibling near the base,
and one that a higher learning rate has led far from it.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fluxduel.benchmarks import pictograms
from fluxduel.training import draws, flow
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.config import TINY_BASE

from ..styles import arms, drawing, subjects

STEPS = 4
# Of the base for each of them, at its guidance.
SUB_STEPS = 3
# What the student is given in place of a guidance: it has one of its own.
GUIDANCE = 1.0
BATCH, WARMUP = 24, 20
_SEED = 4
_FORMS = ("{style} {words}", "{words} in {style} style", "{words}")


@dataclass(frozen=True)
class Teaching:
    """How a student is made: updates, and AdamW's learning rate, which falls to 0 as a cosine."""

    updates: int
    learning_rate: float


SIBLINGS = {"near": Teaching(400, 3e-4), "far": Teaching(600, 2e-3)}


def captions() -> list[str]:
    """What is asked of the base: all its subjects, in its styles, in styles that it does not know, in none."""
    styles = (*pictograms.BASE_STYLES, *pictograms.BASE_STYLES, *pictograms.TARGET_STYLES)
    forms = itertools.product(_FORMS, styles, subjects.taught())
    return [form.format(style=style.word, words=pictograms.words(name)) for form, style, name in forms]


def sibling(folder: Path, name: str) -> BaseReference:
    """The sibling of that name in ``SIBLINGS``, from ``folder`` or made there: ten to fifteen minutes of a core."""
    kept = folder / name / "sibling"
    if not kept.exists():
        base = load_base(BaseReference(TINY_BASE, "fp32"), "cpu")
        distil(base, load_base(BaseReference(TINY_BASE, "bf16"), "cpu"), SIBLINGS[name])
        unfinished = kept.with_suffix(".unfinished")
        base.transformer.save_pretrained(unfinished)
        os.replace(unfinished, kept)
    return BaseReference(str(kept), "fp32")


def moved(reference: BaseReference) -> float:
    """How far a sibling's weights are from the base's, over the norm of those."""
    base, other = (load_base(each, "cpu").transformer for each in (BaseReference(TINY_BASE, "fp32"), reference))
    pairs = list(zip(base.parameters(), other.parameters(), strict=True))
    return math.sqrt(sum((b - a).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs))


def distil(student: FluxBase, teacher: FluxBase, teaching: Teaching) -> None:
    """Teach ``student``, which begins as ``teacher`` is."""
    weights = list(student.transformer.requires_grad_().parameters())
    optimiser = torch.optim.AdamW(weights, lr=teaching.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    said = captions()
    shape = (student.latent_channels, drawing.PLACES, drawing.PLACES)
    levels = flow.sampling_sigmas(STEPS, student.shift(*shape[1:]).mu(STEPS)).float()
    started, shown = time.perf_counter(), []
    for update in range(teaching.updates):
        share = min(1.0, (update + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * update / teaching.updates))
        for group in optimiser.param_groups:
            group["lr"] = teaching.learning_rate * share
        places = range(BATCH)
        chosen = (draws.uniforms(_SEED, update, places, "caption") * len(said)).long().tolist()
        prompts = [subjects.prompt(said[place]) for place in chosen]
        embeds = torch.stack([prompt.prompt_embeds for prompt in prompts])
        pooled = torch.stack([prompt.pooled_prompt_embeds for prompt in prompts])
        x = draws.normals(_SEED, update, places, "noise", shape)
        for here, there in itertools.pairwise(levels):
            target = _taken(teacher, x, here, there, embeds, pooled)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                velocity = student.velocity(x, here.expand(BATCH), embeds, pooled, GUIDANCE)
            loss = (velocity.float() - target).square().mean() / STEPS
            loss.backward()
            shown.append(STEPS * loss.item())
            x = flow.jump(x, velocity.detach().float(), here.expand(BATCH), there.expand(BATCH))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if (update + 1) % 50 == 0:
            recent = sum(shown[-50 * STEPS :]) / (50 * STEPS)
            print(f"sibling: update {update + 1}, {recent:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    student.transformer.requires_grad_(False)


@torch.no_grad()
def _taken(
    teacher: FluxBase, x: Tensor, here: Tensor, there: Tensor, embeds: Tensor, pooled: Tensor
) -> Tensor:
    """The one velocity that leads from ``x`` to where the teacher comes in its own steps between the levels."""
    y = x
    for number in range(SUB_STEPS):
        near, far = (here + (there - here) * (number + part) / SUB_STEPS for part in (0, 1))
        velocity = teacher.velocity(y, near.expand(len(x)), embeds, pooled, arms.GUIDANCE)
        y = flow.jump(y, velocity, near.expand(len(x)), far.expand(len(x)))
    return (x - y) / (here - there)
