"""What the built-in base can do, measured: its VAE on pictures it never saw, its pictures by name, a contact sheet."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from base_pictures import placed
from diffusers import AutoencoderTiny
from PIL import Image
from tiny_model import TextToVelocity, sample
from tiny_vae import decode, encode, psnr
from torch import Generator, Tensor

from fluxduel.benchmarks import pictograms

matplotlib.use("agg")
from matplotlib import pyplot as plt

SIDE = 128
# A sample may lie where and be as large as the pictures that the base was trained on.
_SIZES, _SHIFTS = (128, 120, 112), (-1, 0, 1)
_STEPS = 25


def reconstruction(vae: AutoencoderTiny, pictures: Tensor) -> float:
    """PSNR in dB of pictures (B, 3, 192, 192), uint8, drawn at 128 px, encoded and decoded; mean over the pictures."""
    images = placed(pictures, SIDE, SIDE, SIDE, None)
    return psnr(decode(vae, encode(vae, images)), images)


def latent_statistics(latents: Tensor) -> str:
    """The spread of the channels of latents (..., 16, h, w), in words."""
    std, mean = torch.std_mean(latents.float().flatten(0, -4).transpose(0, 1).flatten(1), dim=1)
    return (
        f"channel means {mean.min():.2f}..{mean.max():.2f}, standard deviations {std.min():.2f}..{std.max():.2f}, "
        f"largest {latents.abs().max():.1f}"
    )


def retrieval(
    vae: AutoencoderTiny,
    model: TextToVelocity,
    pictures: Tensor,
    style: str,
    subjects: list[str],
    seed: int,
    guidance: float,
) -> float:
    """The share of samples, one a subject, whose nearest among all true pictures is that of the subject asked for.

    The distance is that of 32 x 32 pixels in colour, the smallest over a few sizes and places of the true picture.

    Args:
        pictures: the true ones, uint8 (subjects, 3, 192, 192).
    """
    captions = [f"{style} {pictograms.words(subject)}" for subject in subjects]
    latents = torch.cat(
        [
            sample(model, captions[start : start + 128], SIDE, SIDE, seed + start, _STEPS, guidance)
            for start in range(0, len(captions), 128)
        ]
    )
    found = F.avg_pool2d(decode(vae, latents), 4).flatten(1)
    nearest = torch.full((len(found), len(pictures)), torch.inf, device=found.device)
    for size in _SIZES:
        room = (SIDE - size) // 2
        for down in _SHIFTS if room else (0,):
            for right in _SHIFTS if room else (0,):
                image = placed(pictures, size, SIDE, SIDE, None)
                image = torch.roll(image, (down * room, right * room), dims=(2, 3))
                nearest = torch.minimum(nearest, torch.cdist(found, F.avg_pool2d(image, 4).flatten(1)))
    hits = nearest.argmin(dim=1) == torch.arange(len(found), device=found.device)
    return float(hits.float().mean())


def flow_error(model: TextToVelocity, latents: Tensor, tokens: Tensor, seed: int) -> float:
    """Mean squared error of the velocity on latents (B, 16, h, w) with captions (B, 16), over even noise levels."""
    generator = Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    sigma = ((torch.arange(len(latents)) + 0.5) / len(latents)).to(latents.device)
    x_t = (1 - sigma.view(-1, 1, 1, 1)) * latents + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        velocity = model(x_t, sigma, torch.ones_like(sigma), tokens)
    return float((velocity - (noise - latents)).square().mean())


def draw_contact_sheet(
    vae: AutoencoderTiny,
    model: TextToVelocity,
    pictures: Tensor,
    styles: tuple[pictograms.Style, ...],
    subjects: list[str],
    path: Path,
    seed: int,
    guidance: float,
) -> None:
    """Save one row a subject: in each style the true picture and a sample of its caption, then the words alone."""
    rows = [round(place * (len(subjects) - 1) / 11) for place in range(12)]
    columns = 2 * len(styles) + 2
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns + 1.6, len(rows) + 0.4))
    for line, index in zip(axes, rows, strict=True):
        words = pictograms.words(subjects[index])
        captions = [*(f"{style.word} {words}" for style in styles), words, ""]
        drawn = decode(vae, sample(model, captions, SIDE, SIDE, seed + index, _STEPS, guidance))
        truths = placed(pictures[:, index], SIDE, SIDE, SIDE, None)
        images = [image for pair in zip(truths, drawn[: len(styles)], strict=True) for image in pair]
        titles = [title for style in styles for title in (f"true {style.word}", f"sampled {style.word}")]
        for axis, image, title in zip(
            line, [*images, *drawn[len(styles) :]], [*titles, "words alone", "no caption"], strict=True
        ):
            axis.imshow((image * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if line is axes[0]:
                axis.set_title(title, fontsize=6)
        line[0].set_ylabel(textwrap.fill(words, 14), fontsize=7, rotation=0, ha="right", va="center")
    figure.subplots_adjust(left=0.12, right=0.995, top=0.97, bottom=0.005, wspace=0.04, hspace=0.04)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    # A palette of 256 colours halves the file, and with dithering the eye does not see it.
    sheet = Image.open(path).convert("RGB")
    palette = sheet.quantize(256, kmeans=2)
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
