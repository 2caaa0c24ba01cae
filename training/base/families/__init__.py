"""The families of FLUX models that can be trained, each a value of one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family
from .flux1 import FLUX1
from .flux2 import FLUX2
from .flux3 import FLUX3

# Along one side: what sides of pictures must be multiples of, whatever the family.
PIXELS_PER_TOKEN = 16

# One that has marks of its own before one that is known by what the others share.
FAMILIES: tuple[Family, ...] = (FLUX3, FLUX2, FLUX1)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a transformer by diffusers' configuration of it: by its class, FLUX.1's where none is named.

    Raises ``KeyError`` for a class of no family.
    """
    return {family.class_name: family for family in FAMILIES}[config.get("_class_name", FLUX1.class_name)]
