"""Which of the FLUX.1 models that share a layout a checkpoint is, as far as its name and its notes tell."""

from __future__ import annotations

import json
from pathlib import Path

from ..config import TINY_BASE
from .checkpoint_files import is_single_file, read_transformer_config, weight_files
from .tensor_files import read_header

_TELLING_NOTES = ("modelspec.", "general.")


def variant(path: str) -> str:
    """``Kontext``, ``Krea``, ``schnell`` or ``dev`` for the checkpoint at ``path``.

    Schnell has no guidance embedding. Kontext and Krea have the shapes of dev: they are told by the name of the file or
    folder, by what its writer noted, and by the pipeline of a diffusers folder; one that was renamed is taken for dev.
    Raises ``BaseModelError`` as ``read_transformer_config`` does.
    """
    if not read_transformer_config(path)["guidance_embeds"]:
        return "schnell"
    told = _told(path).lower()
    return next((name for name in ("Kontext", "Krea") if name.lower() in told), "dev")


def _told(path: str) -> str:
    if path == TINY_BASE:
        return ""
    files = weight_files(path)
    if is_single_file(path):
        notes = read_header(files).metadata.items()
        return " ".join([files[0].name, *(note for name, note in notes if name.startswith(_TELLING_NOTES))])
    names = [Path(path).name]
    index = files[0].parent.parent / "model_index.json"
    if files[0].parent.name == "transformer" and index.is_file():
        try:
            names.append(str(json.loads(index.read_text(encoding="utf-8")).get("_class_name")))
        except (OSError, ValueError, AttributeError):
            # Only what tells more is lost: the folder's name remains.
            return names[0]
    return " ".join(names)
