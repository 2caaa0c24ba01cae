"""The demo's pictures: subjects that the tiny base knows, in a drawing style that it has never seen."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "demo_pictures"


def write_training_pictures(folder: Path) -> int:
    """Copy the training pictures, each with its caption in a .txt file beside it; the number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = sorted((FOLDER / "train").glob("*.webp"))
    for picture in pictures:
        for path in (picture, picture.with_suffix(".txt")):
            shutil.copyfile(path, folder / path.name)
    return len(pictures)


def unseen() -> dict[str, Image.Image]:
    """Caption -> the true picture, of the subjects that are not trained on."""
    found = {}
    for path in sorted((FOLDER / "unseen").glob("*.webp")):
        with Image.open(path) as picture:
            found[path.with_suffix(".txt").read_text().strip()] = picture.convert("RGB")
    return found
