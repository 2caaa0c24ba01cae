"""One picture file, read into tensors: upright, in sRGB, its first frame."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from ..failure_words import reason
from . import orientation
from .colour_profile import ProfileError, to_srgb
from .data_error import ImageFolderError

# 16384 x 16384. Decoded, such a picture takes 0.8 GB.
MOST_PIXELS = 1 << 28
# Larger pictures are halved before they become floating-point numbers, of which one takes four bytes.
_HALVED_ABOVE = 100_000_000

# Pillow has a reader for these, but it starts another program, gives no picture, or a stand-in for layers.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "PSD", "WMF"}

# What Pillow says, in many ways, of files that end too soon.
_CUT_SHORT = re.compile(
    r"truncated|not processed|not enough image data|expected to read|requires a buffer|end of file|eof", re.IGNORECASE
)

DAMAGED_METADATA = "Pictures with damaged metadata, taken as upright"
CONVERTED = "Pictures converted to sRGB from their colour profile"
FIRST_FRAME = "Files with several frames, of which the first is read"
UNUSED_PROFILE = "Pictures whose colour profile cannot be used, taken as sRGB"


@dataclass(frozen=True, eq=False)
class PictureFile:
    """Pixels (H, W, 3) and, where the picture has one, its alpha (H, W), fp32 in [0, 1].

    ``height`` and ``width`` are those of the upright picture in the file. ``remarks`` are what a report should say.
    """

    pixels: Tensor
    alpha: Tensor | None
    height: int
    width: int
    remarks: tuple[str, ...]


def picture_suffixes() -> frozenset[str]:
    """Endings (lower case, with the dot) of the files that Pillow can read here, its plugins included."""
    Image.init()
    kinds = Image.registered_extensions().items()
    return frozenset(suffix.lower() for suffix, kind in kinds if kind in Image.OPEN and kind not in _NOT_READ)


def read_picture(path: Path, name: str, side: int | None = None) -> PictureFile:
    """The picture at ``path``, which messages call ``name``.

    With ``side``, pixels and alpha of 8 bits are at most so many pixels high and wide, to be looked at: a JPEG is not
    even decoded in full. Raises ``ImageFolderError`` where it cannot be read, or has more than ``MOST_PIXELS`` pixels.
    """
    # Pillow's readers raise whatever their parts do for damaged files, from struct.error to RuntimeError.
    try:
        with warnings.catch_warnings():
            # Of metadata the orientation alone is needed, and what is wrong with pixels is an error.
            warnings.simplefilter("ignore")
            return _read(path, side)
    except Exception as error:
        raise ImageFolderError(
            f"The picture '{name}' in {path.parent} cannot be read: {_why(error)}. Repair, replace or remove it."
        ) from error


class _Unreadable(Exception):
    """Why a picture cannot be read, in words for the user."""


def _why(error: Exception) -> str:
    """In our words: Pillow's own are of its readers' insides."""
    if isinstance(error, _Unreadable) or (isinstance(error, OSError) and error.errno is not None):
        return reason(error)
    if isinstance(error, MemoryError):
        return "memory does not suffice for it"
    if isinstance(error, Image.DecompressionBombError):
        return _too_large("more")
    if _CUT_SHORT.search(str(error)):
        return "it is cut short: a part of it is missing"
    return "its content is damaged, or of a variety of its format that Pillow does not read"


def _too_large(size: str) -> str:
    return f"it has {size} pixels, and {MOST_PIXELS / 1e6:.0f} million are the most"


def check_picture(content: bytes, name: str) -> None:
    """Raises ``ImageFolderError`` where ``content`` does not begin as a picture of a kind that is read here.

    ``name`` is the file's, with its ending. Nothing is decoded: the rest may still be damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _opened(io.BytesIO(content), Path(name))
            if image.width * image.height > MOST_PIXELS:
                raise _Unreadable(_too_large(f"{image.width} x {image.height}"))
    except Exception as error:
        raise ImageFolderError(f"The file '{name}' is no picture that can be used: {_why(error)}.") from error


def _read(path: Path, side: int | None) -> PictureFile:
    remarks: list[str] = []
    with path.open("rb") as file:
        source, turned, several = _without_orientation(file, remarks)
        image = _opened(source, path)
        if image.width * image.height > MOST_PIXELS:
            raise _Unreadable(_too_large(f"{image.width} x {image.height}"))
        if several or getattr(image, "is_animated", False):
            remarks.append(FIRST_FRAME)
        width, height = image.size
        if side is not None:
            image.draft(None, (2 * side, 2 * side))
        image.load()
        if side is None:  # Some formats know it now.
            width, height = image.size
        # Of other formats Pillow knows it now: metadata may come after the pixels.
        turned = turned or _orientation(image.info, remarks)
        upright: Image.Image = image.transpose(orientation.TURNS[turned]) if turned in orientation.TURNS else image
        if turned in orientation.ON_ITS_SIDE:
            width, height = height, width
        pixels, alpha = _tensors(upright, image.info, remarks, side)
    return PictureFile(pixels, alpha, height, width, tuple(dict.fromkeys(remarks)))


def _without_orientation(file: IO[bytes], remarks: list[str]) -> tuple[IO[bytes], int | None, bool]:
    """What Pillow is to read; the orientation where that is known already; are there several pictures?"""
    start = file.read(4)
    file.seek(0)
    if start[:2] == b"\xff\xd8":
        try:
            content, exif, xmp, several = orientation.jpeg_without_metadata(file.read())
        except orientation.DamagedMetadata:
            # Pillow says what is wrong with the file, or can do with it.
            file.seek(0)
            return file, None, False
        return io.BytesIO(content), _orientation({"exif": exif, "xmp": xmp}, remarks), several
    if start in (b"II*\0", b"MM\0*"):
        content, turned = orientation.tiff_upright(file.read())
        return io.BytesIO(content), turned, False
    return file, None, False


def _opened(file: IO[bytes], path: Path) -> ImageFile.ImageFile:
    """As ``Image.open``, whose limit of pixels is one for the whole process and too low for today's cameras."""
    Image.init()
    start = file.read(16)
    if len(start) < 4:
        held = f"{len(start)} byte{'s'[: len(start) != 1]}"
        raise _Unreadable(f"it holds {held} only" if start else "it is empty")
    # Formats without a mark at their start would find a picture in anything: such a one is tried where it is named.
    marked = [kind for kind, (_, accepts) in Image.OPEN.items() if accepts is not None and accepts(start) is True]
    named = Image.registered_extensions().get(path.suffix.lower())
    unmarked = [kind for kind, (_, accepts) in Image.OPEN.items() if accepts is None and kind == named]
    why = "its content is no picture of a kind that Pillow reads here"
    for kind in [*marked, *unmarked]:
        if kind in _NOT_READ:
            continue
        file.seek(0)
        try:
            return Image.OPEN[kind][0](file, str(path))  # type: ignore[return-value]
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            # Of a format without a mark that is no evidence that the file was ever meant to be one.
            why = _why(error) if kind in marked else why
    raise _Unreadable(why)


def _orientation(info: Mapping[Any, Any], remarks: list[str]) -> int:
    exif, xmp = info.get("exif"), info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    try:
        if not exif and "Raw profile type exif" in info:
            # As ImageMagick writes it into PNG: a line of the name, one of the length, then hexadecimal digits.
            exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        found = orientation.in_exif(exif) if exif else None
    except (orientation.DamagedMetadata, ValueError, AttributeError):
        remarks.append(DAMAGED_METADATA)
        found = None
    if found is not None:
        return found
    packet = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else bytes(xmp)
    return orientation.in_xmp(packet) or orientation.UPRIGHT


def _tensors(
    image: Image.Image, info: Mapping[Any, Any], remarks: list[str], side: int | None
) -> tuple[Tensor, Tensor | None]:
    if image.mode == "F":
        raise _Unreadable("its values are floating-point numbers of no certain range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise _Unreadable("its values need more than 16 bits; save it with 8 or 16 bits")
        if info.get("icc_profile"):
            remarks.append(UNUSED_PROFILE)
        return torch.from_numpy(values / 65535)[..., None].repeat(1, 1, 3), None
    if image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        image = image.getchannel("L") if image.mode == "LA" else image if image.mode == "L" else image.convert("RGBA")
    colours = _colours(image, info.get("icc_profile"), remarks)
    if image.width * image.height > _HALVED_ABOVE:
        colours, alpha = colours.reduce(2), None if alpha is None else alpha.reduce(2)
    if side is not None:
        # Each by itself: together, Pillow would blacken what is transparent.
        for part in (colours, alpha):
            if part is not None:
                part.thumbnail((side, side))
    return _in_unit_range(colours), None if alpha is None else _in_unit_range(alpha)


def _colours(image: Image.Image, profile: Any, remarks: list[str]) -> Image.Image:
    """RGB in sRGB, without alpha."""
    if not profile:
        return image.convert("RGB")
    # A palette's colours are RGB.
    bare = image if image.mode in ("1", "L", "CMYK", "LAB") else image.convert("RGB")
    try:
        converted, changed = to_srgb(bare, bytes(profile))
    except ProfileError:
        remarks.append(UNUSED_PROFILE)
        return image.convert("RGB")
    if changed:
        remarks.append(CONVERTED)
    return converted


def _in_unit_range(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
