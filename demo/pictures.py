"""The demo's pictures: subjects that the tiny base knows, in a drawing style that it has never seen."""

from __future__ import annotations

from PIL import Image

from fluxduel.training.data.demo_pictures import DEMO_FOLDER


def unseen() -> dict[str, Image.Image]:
    """Caption -> the true picture, of the subjects that are not trained on."""
    found = {}
    for path in sorted((DEMO_FOLDER.parent / "unseen").glob("*.webp")):
        with Image.open(path) as picture:
            found[path.with_suffix(".txt").read_text().strip()] = picture.convert("RGB")
    return found
