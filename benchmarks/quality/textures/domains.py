"""Real photographs as small latents, in training and unseen parts of one picture.

The photographs are those that scikit-image ships inside its wheel, each brought to zero mean and unit variance, which
FLUX's VAE does to its latents. A crop of 16x16 grey pixels becomes a latent of 4 channels and 8x8 places: an exact
codec (each 2x2 patch is a place), so that nothing is lost or added by a VAE, and a latent is what a small FLUX-shaped
transformer packs into 16 tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents, with_phrase

CROP = 16
CHANNELS = 4
TOKENS = 4
CONTEXT, POOLED = 32, 32
# A photograph is cut into tiles like a chessboard: dark ones to train on, light ones to measure on. Both then have the
# same law, also where the picture changes from one end to the other. The gap keeps neighbours' borders apart. The size
# was chosen by the distance of real to real alone, the lowest over the three domains.
TILE, GAP = 128, 8
# Shown pixels' deviation, of a range of 1.
CONTRAST = 0.2
FEW_STEP_PHRASE = "quick"


@dataclass(frozen=True)
class Photo:
    """A photograph: its file in scikit-image's data folder, the word that captions it, and a scale."""

    file: str
    caption: str
    scale: float = 1.0


BASE_PHOTOS = (
    Photo("astronaut.png", "astronaut"),
    Photo("camera.png", "camera"),
    Photo("cell.png", "cell"),
    Photo("chelsea.png", "cat"),
    Photo("coffee.png", "coffee", 0.5),
    Photo("coins.png", "coins"),
    Photo("hubble_deep_field.jpg", "stars"),
    Photo("ihc.png", "tissue"),
    Photo("moon.png", "moon"),
    Photo("motorcycle_left.png", "motorcycle"),
    Photo("retina.jpg", "retina", 0.5),
    Photo("rocket.jpg", "rocket"),
)
DOMAINS = {word: Photo(f"{word}.png", word) for word in ("gravel", "brick", "grass")}


def grey(photo: Photo) -> Tensor:
    """The photograph's pixels (H, W), of zero mean and unit variance; nothing is ever downloaded."""
    picture = Image.open(Path(skimage.data.__file__).parent / photo.file).convert("L")
    size = (round(picture.width * photo.scale), round(picture.height * photo.scale))
    pixels = torch.from_numpy(np.array(picture.resize(size, Image.Resampling.LANCZOS))).float()
    return (pixels - pixels.mean()) / pixels.std()


def encode(pixels: Tensor) -> Tensor:
    """(n, 16, 16) standardised pixels -> latents (n, 4, 8, 8)."""
    return F.pixel_unshuffle(pixels[:, None], 2)


def decode(latents: Tensor) -> Tensor:
    """Latents (n, 4, 8, 8) -> pixels (n, 16, 16) in [0, 1], grey where a photograph has its mean."""
    return (F.pixel_shuffle(latents, 2)[:, 0] * CONTRAST + 0.5).clamp(0, 1)


def crops(picture: Tensor, count: int, seed: int, *, unseen: bool | None) -> Tensor:
    """``count`` random crops as latents: from the tiles to train on, from the unseen ones, or (None) from anywhere."""
    height, width = picture.shape
    windows = [(0, 0, height, width)]
    if unseen is not None:
        windows = [
            (row * TILE + GAP // 2, column * TILE + GAP // 2, TILE - GAP, TILE - GAP)
            for row in range(height // TILE)
            for column in range(width // TILE)
            if (row + column) % 2 == int(unseen)
        ]
    generator = torch.Generator().manual_seed(3 * seed + (2 if unseen is None else int(unseen)))
    draws = torch.rand(count, 3, generator=generator).tolist()
    cut = []
    for which, down, right in draws:
        top, left, high, wide = windows[int(which * len(windows))]
        y, x = top + int(down * (high - CROP + 1)), left + int(right * (wide - CROP + 1))
        cut.append(picture[y : y + CROP, x : x + CROP])
    return encode(torch.stack(cut))


def prompt(caption: str) -> Prompt:
    """A caption of up to ``TOKENS`` words. A word's vectors, also the pooled one, are drawn from a hash of the word."""
    words = caption.replace(",", " ").split()[:TOKENS]
    embeds = torch.zeros(TOKENS, CONTEXT)
    pooled = torch.zeros(POOLED)
    for place, word in enumerate(words):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=7).digest(), "little")
        vector = torch.randn(CONTEXT + POOLED, generator=torch.Generator().manual_seed(seed))
        embeds[place] = vector[:CONTEXT]
        pooled += vector[CONTEXT:]
    return Prompt(caption, embeds, pooled)


def dataset(photo: Photo, count: int, seed: int, held_out_share: float) -> RealLatents:
    """``count`` training crops of a domain, some of them held out, with one caption and its few-step partner."""
    latents = crops(grey(photo), count, seed, unseen=False)
    samples = tuple(sample(f"{photo.caption} {i}", z) for i, z in enumerate(latents))
    held_out = max(1, round(held_out_share * count))
    return RealLatents(
        samples=samples,
        prompts=(prompt(photo.caption),),
        empty_prompt=prompt(""),
        held_out=tuple(range(count - held_out, count)),
        fingerprint=f"{photo.caption}/{count}/{seed}",
        few_step_prompts=(prompt(with_phrase(FEW_STEP_PHRASE, photo.caption)),),
        few_step_phrase=FEW_STEP_PHRASE,
    )


def sample(name: str, latents: Tensor) -> LatentSample:
    """A picture of a dataset with one caption."""
    return LatentSample(name, latents, None, None, None, None, 0)


def stack(samples: Sequence[LatentSample]) -> Tensor:
    """The means of samples, (n, 4, 8, 8)."""
    return torch.stack([sample.mean for sample in samples])
