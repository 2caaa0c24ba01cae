"""Pictures and masks as a graph's wires carry them, made into those of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .data_error import DataError
from .masks import ON_WHITE
from .remarks import Remarks

PLACEHOLDERS = "Masks that stand for none (zeros of 64 x 64, as the host gives them), learned whole"
# What the host's image loaders put out as the mask of a picture without an alpha channel.
_PLACEHOLDER = (64, 64)


def single_pictures(images: Sequence[Tensor], names: Sequence[str], remarks: Remarks) -> list[Tensor]:
    """IMAGE values (b, H, W, c) or (H, W, c) -> pictures (H, W, 3).

    c is 1 (grey), 3, or 4 with an alpha channel: what is transparent is put on white, with a remark. Raises
    ``DataError`` that names all pictures with another number of channels.
    """
    singles = [picture for batch in images for picture in (batch if batch.ndim == 4 else batch[None])]
    wrong = [
        f"'{_name(names, index)}' ({picture.shape[-1]})"
        for index, picture in enumerate(singles)
        if picture.ndim == 3 and picture.shape[-1] not in (1, 3, 4)
    ]
    if wrong:
        raise DataError(
            f"Pictures must have 1, 3 or 4 channels (grey, RGB, RGB with alpha). {', '.join(wrong)} have another "
            "number of them: connect the pictures as the host's image loaders give them."
        )
    return [_opaque(picture, _name(names, index), remarks) for index, picture in enumerate(singles)]


def single_masks(
    masks: Sequence[Tensor], pictures: Sequence[Tensor], names: Sequence[str], remarks: Remarks
) -> list[Tensor | None] | None:
    """MASK values (b, H, W) or (H, W) -> one for each picture, ``None`` for a picture that is learned whole.

    That is where a mask is 1 everywhere, and where it is the host's placeholder, with a remark. One mask serves all
    pictures. ``None`` where there are no masks at all.
    """
    if not masks:
        return None
    singles = [mask for batch in masks for mask in (batch if batch.ndim == 3 else batch[None])]
    if len(singles) == 1:
        singles = singles * len(pictures)
    found: list[Tensor | None] = []
    for index, mask in enumerate(singles):
        placeholder = tuple(mask.shape) == _PLACEHOLDER and not bool(mask.any())
        remarks.add(_name(names, index), [PLACEHOLDERS] if placeholder else [])
        found.append(None if placeholder or bool((mask == 1).all()) else mask)
    return found


def _opaque(picture: Tensor, name: str, remarks: Remarks) -> Tensor:
    if picture.ndim != 3 or picture.shape[-1] == 3:
        return picture
    if picture.shape[-1] == 1:
        return picture.expand(-1, -1, 3)
    colours, alpha = picture[..., :3], picture[..., 3:].clamp(0.0, 1.0)
    if bool((alpha == 1).all()):
        return colours
    remarks.add(name, [ON_WHITE])
    return torch.lerp(torch.ones_like(colours), colours, alpha)


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else f"image {index + 1}"
