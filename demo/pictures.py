"""The demo's training pictures: a photograph of the deep sky, which the tiny base has never seen, in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import skimage.data
from PIL import Image

# 7 x 6 tiles of the photograph (1000 x 872). They do not overlap, so that what is held out is really unseen.
TILE = 128
CAPTIONS = ("a photo of stars and galaxies", "stars and galaxies in the night sky", "the deep sky, a photo of galaxies")


def tiles() -> Iterator[Image.Image]:
    """The photograph's tiles, row by row."""
    photo = Image.fromarray(skimage.data.hubble_deep_field())
    for top in range(0, photo.height - TILE + 1, TILE):
        for left in range(0, photo.width - TILE + 1, TILE):
            yield photo.crop((left, top, left + TILE, top + TILE))


def write_training_pictures(folder: Path) -> int:
    """Write every tile with its caption in a .txt file beside it; the number of tiles."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, tile in enumerate(tiles(), 1):
        path = folder / f"sky_{count:02}.png"
        tile.save(path)
        path.with_suffix(".txt").write_text(CAPTIONS[count % len(CAPTIONS)] + "\n")
    return count
