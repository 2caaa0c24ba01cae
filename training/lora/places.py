"""Which of the base's layers those of a LoRA file are, or for which other model it was made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..base.base_model import BaseReference
from ..base.families import Family
from ..base.families.modules import Module
from . import other_models
from .keys import layer_name
from .low_rank import size_of
from .value import LoRAError, base_family

log = logging.getLogger(__name__)

# By the file's name of a layer, its tensors by part.
Found = Mapping[str, Mapping[str, Tensor]]


def check_model(path: Path, model: str, evidence: str, family: Family) -> None:
    """Raises ``LoRAError`` unless ``model``, for which the file was made after ``evidence``, is ""."""
    if model:
        raise LoRAError(
            f"{path} is a LoRA for {model} ({evidence}), and works on no other model. Choose one for {family.name}, or "
            "the base that this one was trained on."
        )


def places_of(path: Path, found: Found, reference: BaseReference) -> dict[str, Module]:
    """The base's layer for each of the file's. Raises ``LoRAError`` for one that it lacks or has in another size."""
    family = base_family(reference)
    layers = other_models.names_of(family, reference.config)
    sizes = _sizes(found)
    for name, parts in found.items():
        flat, size = _flat(name), size_of(parts)
        if flat not in layers:
            shape = "" if size is None else f", a layer of {size[1]} -> {size[0]}"
            check_model(path, other_models.named_by_layers(sizes, family), f"it adapts {name}{shape}", family)
            raise LoRAError(
                f"{path}: {reference.name} has no layer for {name}. The LoRA was made for another model, or a newer "
                "program."
            )
        shape = layers[flat].shape
        if size is not None and size != shape:
            where = (
                f"{name} is for a layer of {size[1]} -> {size[0]}, {reference.name} has {shape[1]} -> {shape[0]} there"
            )
            check_model(path, other_models.named_by_layers(sizes, family), where, family)
            raise LoRAError(
                f"{path}: {where}. The LoRA was made for another model; choose the base that it was trained on."
            )
    return {name: layers[_flat(name)] for name in found}


def check_ambiguity(path: Path, found: Found, reference: BaseReference) -> None:
    """Of a file that fits the base and does not say what it was made for: tell where it fits another family, too.

    Raises ``LoRAError`` where it is all of the double blocks of a model of that family, and nothing else.
    """
    family, sizes = base_family(reference), _sizes(found)
    doubles = family.depth(reference.config)[0]
    others = other_models.also_of(sizes, family)
    if not others or other_models.fills(sizes, doubles):
        return
    for model in others:
        if other_models.fills(sizes, model.doubles):
            blocks = f"double blocks 0 to {model.doubles - 1}"
            evidence = f"it adapts {blocks}, which are all that {model.name} has, and nothing else"
            check_model(path, model.name, evidence, family)
    log.warning(
        "%s: its layers are the same in %s and in %s, and it does not say for which it was made. It is taken for one "
        "for %s.",
        path,
        family.name,
        " and ".join(model.name for model in others),
        family.name,
    )


def _sizes(found: Found) -> dict[str, tuple[int, int] | None]:
    return {_flat(name): size_of(parts) for name, parts in found.items()}


def _flat(name: str) -> str:
    return layer_name(name).replace(".", "_")
