"""What the built-in base is made from: pictograms on white, and photographs that only the VAE sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from fluxduel.benchmarks import pictograms

# Never trained on: the VAE is measured on it.
HELD_OUT_PHOTO = "hubble_deep_field.jpg"
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)


def load_pictures(folder: Path, styles: tuple[pictograms.Style, ...], subjects: list[str]) -> Tensor:
    """Pictures of the subjects in the styles, uint8 (styles, subjects, 3, 192, 192)."""
    rows = [[pictograms.picture(folder, style.word, subject) for subject in subjects] for style in styles]
    return torch.stack([torch.stack(row) for row in rows])


def load_photos(device: torch.device) -> list[Tensor]:
    """The photographs that scikit-image's wheel brings, at several scales, uint8 (3, H, W); nothing is downloaded."""
    scaled = []
    for file in PHOTOS:
        photo = Image.open(Path(skimage.data.__file__).parent / file).convert("RGB")
        side = float(min(560, *photo.size))
        while side >= 130:
            factor = side / min(photo.size)
            size = tuple(max(128, round(length * factor)) for length in photo.size)
            pixels = np.array(photo.resize(size, Image.Resampling.LANCZOS))
            scaled.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(device))
            side *= 0.75
    return scaled


def resized(pictures: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, S, S), uint8, at ``size`` pixels a side, in [0, 1]."""
    pixels = pictures.float() / 255
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def placed(pictures: Tensor, size: int, height: int, width: int, generator: Generator | None) -> Tensor:
    """Pictures (B, 3, S, S), uint8, drawn at ``size`` pixels on a white (height, width) canvas, in [-1, 1].

    Each lies somewhere else where there is room; without a generator all lie in the middle.
    """
    small = resized(pictures, size)
    canvas = torch.ones(len(small), 3, height, width, device=small.device)
    room = torch.tensor([height - size + 1, width - size + 1])
    if generator is None:
        corners = (room - 1).div(2, rounding_mode="floor").expand(len(small), 2)
    else:
        corners = (torch.rand(len(small), 2, generator=generator) * room).long()
    for place, (top, left) in zip(range(len(small)), corners.tolist(), strict=True):
        canvas[place, :, top : top + size, left : left + size] = small[place]
    return canvas * 2 - 1


class VaeBatches:
    """Endless augmented crops for the VAE, (B, 3, side, side) in [-1, 1], as a function of the step alone."""

    def __init__(self, pictures: Tensor, photos: list[Tensor], batch: int, seed: int) -> None:
        self._pictures = pictures.flatten(0, 1)
        self._photos = photos
        self._batch = batch
        self._seed = seed

    def __call__(self, step: int) -> Tensor:
        """The crops of one step: 64 px mostly, one step in five the fourth part as many of 128 px."""
        rng = np.random.default_rng([self._seed, step])
        side, count = (64, self._batch) if rng.random() < 0.8 else (128, max(1, self._batch // 4))
        from_photos = rng.binomial(count, 0.2)
        chosen = torch.from_numpy(rng.integers(len(self._pictures), size=count - from_photos))
        size = int(rng.choice([size for size in (64, 96, 128, 160, 192) if size >= side]))
        drawn = resized(self._pictures[chosen.to(self._pictures.device)], size)
        crops = [_crop(picture, side, rng) for picture in drawn]
        for _ in range(from_photos):
            crops.append(_crop(self._photos[rng.integers(len(self._photos))], side, rng).float() / 255)
        batch = _jitter_colour(torch.stack(crops), rng)
        return (batch * 2 - 1).contiguous(memory_format=torch.channels_last)


def _crop(image: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    top = int(rng.integers(0, image.shape[1] - side + 1))
    left = int(rng.integers(0, image.shape[2] - side + 1))
    crop = image[:, top : top + side, left : left + side]
    return crop.flip(-1) if rng.random() < 0.5 else crop


def _jitter_colour(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain, gamma and channel order of crops (B, 3, H, W) in [0, 1]; one crop in ten is darkened strongly."""
    count = len(crops)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(crops.device).view(count, -1, 1, 1)

    touched = rng.random(count) < 0.5
    gain = np.where(touched[:, None], rng.uniform(0.75, 1.15, (count, 3)), 1.0)
    gamma = np.where(touched, rng.uniform(0.75, 1.35, count), 1.0)
    gamma = np.where(rng.random(count) < 0.1, rng.uniform(2.0, 4.0, count), gamma)
    crops = (crops * column(gain)).clamp(0, 1) ** column(gamma)
    shuffled = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    orders = np.where(rng.random((count, 1)) < 0.15, shuffled, np.arange(3))
    index = torch.from_numpy(orders).to(crops.device).view(count, 3, 1, 1).expand_as(crops)
    return crops.gather(1, index)
