"""Subjects that the tiny base knows, in a style that it does not: few to train on, the rest to measure on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fluxduel.benchmarks import pictograms
from fluxduel.training.base.checkpoint_files import TINY_BASE_FOLDER
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
from fluxduel.training.data.tiny_encoders import TinyEncoders

FOLDER = Path(__file__).resolve().parents[3] / ".bench" / "pictograms"
SIDE = 128
STYLES = tuple(style.word for style in pictograms.TARGET_STYLES)
# A style that the base knows: the same captions in it are to stay what they were.
OLD_STYLE = "noto"
# What is never trained on is the same for both numbers of pictures.
MOST_IMAGES = 60
# Captions that a LoRA practises on.
PRACTICE = 36


def taught() -> list[str]:
    """The subjects that the base was trained on, sorted."""
    return (TINY_BASE_FOLDER / "subjects.txt").read_text().split()


def split(style: str, images: int, seed: int) -> tuple[list[str], list[str]]:
    """Names to train on and, of the others, to measure on; the fewer pictures are among the more."""
    names = taught()
    generator = torch.Generator().manual_seed(1000 * seed + STYLES.index(style))
    order = torch.randperm(len(names), generator=generator).tolist()
    return [names[i] for i in order[:images]], sorted(names[i] for i in order[MOST_IMAGES:])


def practice(style: str, images: int, seed: int) -> list[str]:
    """Subjects to practise on, without their pictures: known to the base, neither trained nor measured on.

    With ``MOST_IMAGES`` pictures there are none of these left; then the same number that the base does not know either.
    """
    names = taught()
    generator = torch.Generator().manual_seed(1000 * seed + STYLES.index(style))
    order = torch.randperm(len(names), generator=generator).tolist()
    others = [names[i] for i in order[images:MOST_IMAGES]]
    unknown = sorted(set(pictograms.subjects(FOLDER)) - set(names))
    chosen = torch.randperm(len(unknown), generator=generator).tolist()
    return [*others, *(unknown[i] for i in chosen)][:PRACTICE]


def caption(style: str, subject: str) -> str:
    """``3d red apple``."""
    return f"{style} {pictograms.words(subject)}"


def pictures(style: str, names: Sequence[str]) -> Tensor:
    """The true pictures, (n, 3, 128, 128) in [0, 1]."""
    return torch.stack([_picture(style, name) for name in names])


@functools.lru_cache(maxsize=4096)
def _picture(style: str, name: str) -> Tensor:
    pixels = pictograms.picture(FOLDER, style, name)[None].float() / 255
    return F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


@functools.lru_cache(maxsize=1)
def encoders() -> TinyEncoders:
    return TinyEncoders("cpu")


@functools.lru_cache(maxsize=8192)
def prompt(text: str) -> Prompt:
    """A caption with its encodings."""
    return Prompt(text, *encoders().encode_prompt(text))


@functools.lru_cache(maxsize=4096)
def _latents(style: str, name: str) -> Tensor:
    raw, _ = encoders().encode_image(_picture(style, name)[None].movedim(1, -1))
    return FLUX_1.normalise(raw)[0]


def latents(style: str, names: Sequence[str]) -> Tensor:
    """The true pictures' latents in model space, (n, 16, 16, 16)."""
    return torch.stack([_latents(style, name) for name in names])


def dataset(style: str, images: int, seed: int, held_out_share: float) -> RealLatents:
    """The training pictures with their captions, some of them held out."""
    names, _ = split(style, images, seed)
    return _real_latents(style, names, max(1, round(held_out_share * images)), f"{style}/{images}/{seed}")


def practising(data: RealLatents, style: str, images: int, seed: int) -> RealLatents:
    """The same with practice prompts."""
    captions = [caption(style, name) for name in practice(style, images, seed)]
    prompts = tuple(prompt(text) for text in captions)
    return dataclasses.replace(data, practice_prompts=prompts, practice_fingerprint=" ".join(captions))


def unseen(style: str, names: Sequence[str]) -> RealLatents:
    """Subjects all of which are held out."""
    return _real_latents(style, names, len(names), f"{style}/{len(names)}")


def _real_latents(style: str, names: Sequence[str], held_out: int, fingerprint: str) -> RealLatents:
    found = zip(names, latents(style, names), strict=True)
    return RealLatents(
        samples=tuple(LatentSample(name, z, None, None, None, None, i) for i, (name, z) in enumerate(found)),
        prompts=tuple(prompt(caption(style, name)) for name in names),
        empty_prompt=prompt(""),
        held_out=tuple(range(len(names) - held_out, len(names))),
        fingerprint=fingerprint,
    )

