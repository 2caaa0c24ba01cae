"""Picture files as they come from cameras, editors and broken disks, generated from a seed."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
from PIL import Image

from fluxduel.training.data.picture_file import picture_suffixes

ORIENTATION, SHORT = 0x0112, 3
# Tags that Pillow looks at by itself, and those that it writes again when it turns a picture.
_TAGS = (0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0201, 0x8769, 0x8825, 0x9286, 0xA002)


def noise(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def exif_block(rng: random.Random, orientation: int | None, damaged: bool) -> bytes:
    """A TIFF directory of random entries, of which one may be a sound ``orientation``; ``damaged``: bytes changed."""
    order = rng.choice("<>")
    tags = [rng.choice([*_TAGS, rng.randrange(65536)]) for _ in range(rng.randrange(8))]
    entries = {tag: (rng.randrange(15), rng.choice([0, 1, 2, 5, 1000, 2**31]), rng.randbytes(4)) for tag in tags}
    entries.pop(ORIENTATION, None)
    if orientation is not None:
        entries[ORIENTATION] = (SHORT, 1, struct.pack(f"{order}HH", orientation, 0))
    block = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HLH", 42, 8, len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        block += struct.pack(f"{order}HHL", tag, kind, count) + value
    block += struct.pack(f"{order}L", 0) + rng.randbytes(rng.randrange(64))
    if damaged:
        content = bytearray(block)
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        block = bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    return block


def with_exif(kind: str, block: bytes) -> bytes:
    """The 24 x 16 picture of ``noise`` as a file of ``kind`` (JPEG, PNG, WEBP) with the Exif ``block``."""
    file = io.BytesIO()
    noise().save(file, kind, exif=b"Exif\0\0" + block)
    return file.getvalue()


def written_by_pillow() -> dict[str, bytes]:
    """Suffix -> a small sound picture, one for each format that Pillow can write and we read."""
    found: dict[str, bytes] = {}
    kinds = set()
    for suffix, kind in sorted(Image.registered_extensions().items()):
        if suffix not in picture_suffixes() or kind not in Image.SAVE or kind in kinds:
            continue
        for mode in ("RGB", "RGBA", "P", "L", "1"):
            file = io.BytesIO()
            try:
                noise(32, 32).convert(mode).save(file, kind)
            except (OSError, KeyError, ValueError):
                continue
            found[suffix] = file.getvalue()
            kinds.add(kind)
            break
    return found


def damaged(rng: random.Random, content: bytes) -> bytes:
    """``content`` cut short, with some bytes changed, or with a span of zeros."""
    changed = bytearray(content)
    way = rng.randrange(4)
    if way == 0:
        return content[: rng.randrange(len(content))]
    if way == 1:
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif way == 2:
        # Headers are short, and most of what can go wrong is in them.
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(min(64, len(changed)))] = rng.randrange(256)
    else:
        start = rng.randrange(len(changed))
        end = min(len(changed), start + rng.randrange(1, 200))
        changed[start:end] = bytes(end - start)
    return bytes(changed)
