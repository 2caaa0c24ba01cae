"""Decoded pictures as files."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def side_by_side(pictures: Tensor) -> Image.Image:
    """(n, H, W, 3) in [0, 1] as one picture of all n in a row."""
    return _picture(torch.cat(list(pictures), dim=1))


def single_pictures(pictures: Tensor) -> list[Image.Image]:
    """(n, H, W, 3) in [0, 1] as n pictures."""
    return [_picture(picture) for picture in pictures]


def free_path(path: Path) -> Path:
    """``path``, or where something is there already ``name-2.png``, ``name-3.png``, ..., the first that is free."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _picture(pixels: Tensor) -> Image.Image:
    values = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.numpy())
