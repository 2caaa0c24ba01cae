"""From the colours that a picture's embedded profile means to sRGB, which VAEs are trained on."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms, features

from ..failure_words import reason

# Colour spaces of profiles (ICC.1, table 19) -> Pillow's mode for them.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_BLACK_POINT_COMPENSATION = 0x2000
# A profile that moves no colour by more than this many of 255 levels is sRGB, under whatever name.
_SAME_LEVELS = 2


class ProfileError(Exception):
    """A profile cannot be used. The message says why."""


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, bool]:
    """``image``, without alpha, as an RGB picture in sRGB, and whether its colours had to be changed for that.

    Converted by relative colorimetry with black point compensation. Raises ``ProfileError``.
    """
    if not features.check("littlecms2"):
        raise ProfileError("Pillow has no littlecms here")
    # littlecms' wrapper raises whatever its parts do, for bytes that may be anything.
    try:
        mode, transform, same = _transform(profile)
        if image.mode != mode:
            if mode not in ("RGB", "L") or image.mode in ("CMYK", "LAB") or (mode == "L" and image.mode != "1"):
                raise ProfileError(f"it is for {mode} pictures, and this one is {image.mode}")
            image = image.convert(mode)
        if same:
            return image.convert("RGB"), False
        converted = ImageCms.applyTransform(image, transform)
    except ProfileError:
        raise
    except Exception as error:
        raise ProfileError(reason(error) or type(error).__name__) from error
    assert converted is not None
    return converted, True


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform, bool]:
    """The mode of the pictures that ``profile`` is for, the way to sRGB, and whether that changes nothing."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space not in _MODES:
        raise ProfileError(f"its colour space is {space}")
    mode = _MODES[space]
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=_BLACK_POINT_COMPENSATION,
    )
    return mode, transform, mode in ("RGB", "L") and _changes_nothing(transform, mode)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.append(np.arange(0, 255, 15, dtype=np.uint8), np.uint8(255))
    grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    colours = Image.fromarray(grid)
    converted = ImageCms.applyTransform(colours, transform)
    assert converted is not None
    before, after = (np.asarray(image, dtype=np.int16) for image in (colours.convert("RGB"), converted))
    return int(np.abs(before - after).max()) <= _SAME_LEVELS
