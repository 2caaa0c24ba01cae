"""A training picture to be looked at: small, as it is trained on, its unlearned parts dimmed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from .buckets import resize
from .folder_files import Folder
from .images import MAX_PIXELS, REDUCED
from .masks import mask_of, on_white
from .picture_file import read_picture

SIDE = 192
# What a mask leaves out stays visible, so that the mask can be judged.
_DIMMED = 0.25


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, width and height of the upright picture in its file, and what a report says of it."""

    content: bytes
    width: int
    height: int
    masked: bool
    remarks: tuple[str, ...]


def thumbnail(root: Path, name: str, mask_rule: str, mask: str | None = None) -> Thumbnail:
    """The picture ``name`` in the training folder ``root``, at most ``SIDE`` pixels high and wide.

    ``mask``: the name of its mask file, for the rule "mask files". Raises ``ImageFolderError`` where picture or mask
    cannot be used.
    """
    folder = Folder(root)
    path = root / name
    picture = read_picture(path, name, SIDE)
    rule = "none" if mask_rule == "mask files" and mask is None else mask_rule
    shown, source = mask_of(folder, path, picture, rule, None if mask is None else root / mask, SIDE)
    pixels, noticed = on_white(picture, rule)
    if shown is not None:
        shown = resize(shown[None], *pixels.shape[:2])[0]
        pixels = pixels * (_DIMMED + (1 - _DIMMED) * shown[..., None])
    small = Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())
    small.thumbnail((SIDE, SIDE))  # One of 16 bits comes in its full size.
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    reduced = (REDUCED,) if picture.height * picture.width > MAX_PIXELS else ()
    remarks = tuple(filter(None, (*picture.remarks, source, *noticed, *reduced)))
    return Thumbnail(content.getvalue(), picture.width, picture.height, shown is not None, remarks)
