"""Which of the models that share a layout a checkpoint is, as far as its name and its notes tell."""

from __future__ import annotations

import json
from pathlib import Path

from ..config import TINY_BASE
from .checkpoint_files import is_single_file, read_transformer_config, weight_files
from .families import family_of
from .tensor_files import read_header

_TELLING_NOTES = ("modelspec.", "general.")


def variant(path: str) -> str:
    """Such as ``Kontext``, ``schnell``, ``dev`` or ``klein 4B base`` for the checkpoint at ``path``; see
    ``Family.variant``.

    What shapes do not tell is told by the name of the file or folder, by what its writer noted, and by the pipeline of
    a diffusers folder; one that was renamed is taken for the commonest. Raises ``BaseModelError`` as
    ``read_transformer_config`` does.
    """
    config = read_transformer_config(path)
    return family_of(config).variant(config, _told(path))


def usual_cfg(path: str) -> float:
    """The classifier-free guidance that the checkpoint at ``path`` is sampled at, as far as ``variant`` tells."""
    config = read_transformer_config(path)
    family = family_of(config)
    return family.usual_cfg(family.variant(config, _told(path)))


def usual_steps(path: str) -> int:
    """The sampling steps that the checkpoint at ``path`` was distilled for, as far as ``variant`` tells; 0: none."""
    config = read_transformer_config(path)
    family = family_of(config)
    return family.usual_steps(family.variant(config, _told(path)))


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
