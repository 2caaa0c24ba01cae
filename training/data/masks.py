"""Where a picture is to be learned: from its alpha channel, or from a file of its own."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .data_error import ImageFolderError
from .folder_files import Folder
from .picture_file import PictureFile, read_picture

MASK_RULES = ("none", "alpha", "mask files")

WITHOUT_ALPHA = "Pictures without an alpha channel, learned whole"
OPAQUE = "Pictures whose alpha channel is opaque everywhere, learned whole"
FROM_ALPHA = "Masks from the picture's alpha channel"
FROM_FILE = "Masks from mask files"
FROM_FILES_ALPHA = "Masks from the alpha channel of mask files"
ON_WHITE = "Pictures with transparent parts, put on white"

# Of 255 levels: what counts as one colour in a mask file.
_ONE_COLOUR = 8 / 255


def on_white(picture: PictureFile, rule: str) -> tuple[Tensor, tuple[str, ...]]:
    """The picture's pixels, on white unless its alpha channel is the mask by ``rule``, and what a report says of it."""
    if picture.alpha is None or rule == "alpha":
        return picture.pixels, ()
    pixels = picture.pixels * picture.alpha[..., None] + (1 - picture.alpha[..., None])
    return pixels, (ON_WHITE,) if bool((picture.alpha < 1).any()) else ()


def mask_of(
    found: Folder, path: Path, picture: PictureFile, rule: str, file: Path | None, side: int | None = None
) -> tuple[Tensor | None, str]:
    """The mask (H, W) in [0, 1] of the picture at ``path`` by ``rule``, one of ``MASK_RULES``, and what it came from.

    ``file``: its mask file, for the rule "mask files"; it is read with ``side`` as ``read_picture`` does. ``None`` for
    a picture that is learned whole. Raises ``ImageFolderError``.
    """
    if rule == "alpha":
        if picture.alpha is None:
            return None, WITHOUT_ALPHA
        return (None, OPAQUE) if bool((picture.alpha == 1).all()) else (picture.alpha, FROM_ALPHA)
    if rule == "none":
        return None, ""
    assert file is not None
    mask = read_picture(file, found.name(file), side)
    if (mask.height, mask.width) != (picture.height, picture.width):
        raise ImageFolderError(
            f"The mask '{found.name(file)}' is {mask.width} x {mask.height} pixels, its picture '{found.name(path)}' "
            f"is {picture.width} x {picture.height}. Save the mask in the picture's size."
        )
    grey = mask.pixels.mean(dim=-1)
    if mask.alpha is None or bool((mask.alpha == 1).all()):
        return grey, FROM_FILE
    # What is under a transparent place was not painted.
    painted = grey[mask.alpha > 0]
    if painted.numel() and painted.max() - painted.min() > _ONE_COLOUR:
        raise ImageFolderError(
            f"The mask '{found.name(file)}' has several greys and an alpha channel: either may be the mask. Save it "
            "without transparency, white where the picture is to be learned."
        )
    return mask.alpha, FROM_FILES_ALPHA
