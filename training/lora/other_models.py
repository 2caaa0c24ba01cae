"""LoRAs for other models than the base, told by what a file says, by names of layers and by their sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from ..base.families import FAMILIES, Family
from ..base.families.modules import DIFFUSERS, ORIGINAL, Module
from .packing import file_layers

# (out, in) of a layer, where it is known.
Sizes = Mapping[str, tuple[int, int] | None]

# Where a file names its model, in metadata.
_STATEMENTS = ("ss_base_model_version", "modelspec.architecture", "base_model", "ss_network_module")

# By what a name contains; the first that fits.
_NAMES = (
    ("FLUX.1", r"flux[ ._-]?1(?!\d)"),
    ("FLUX.3", r"flux[ ._-]?3(?!\d)"),
    ("FLUX.2", r"flux[ ._-]?2(?!\d)|klein"),
    ("Chroma", r"chroma"),
    ("Qwen-Image", r"qwen"),
    ("Z-Image", r"z[ ._-]?image"),
    ("HunyuanVideo", r"hunyuan"),
    ("HiDream", r"hidream"),
    ("Wan", r"\bwan[ ._-]?[\dv]"),
    ("LTX-Video", r"\bltx"),
    ("Lumina", r"lumina"),
    ("Stable Diffusion 3", r"\bsd[ ._-]?3|stable[ ._-]diffusion[ ._-]3"),
    ("Stable Diffusion XL", r"sdxl|stable[ ._-]diffusion[ ._-]xl"),
    ("Stable Diffusion", r"\bsd_?v?[12](?!\d)|stable[ ._-]diffusion[ ._-]v?[12]"),
)
# By names of layers that no FLUX has, in any program's spelling.
_KEYS = (
    ("Chroma", r"distilled_guidance_layer"),
    ("Qwen-Image", r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)"),
    ("HunyuanVideo", r"individual_token_refiner|double_blocks[._]\d+[._](img|txt)_mlp[._]fc[12]"),
    (
        "Z-Image or Lumina",
        r"(layers|noise_refiner|context_refiner)[._]\d+[._](attention|feed_forward|adaLN_modulation)",
    ),
    ("HiDream", r"(double|single)_stream_blocks[._]\d"),
    ("Wan", r"(?:^|\.|lora_unet_)blocks[._]\d+[._](self_attn|cross_attn|ffn)"),
    ("Stable Diffusion 3", r"joint_blocks[._]\d"),
    ("Stable Diffusion", r"lora_unet_(input_blocks|down_blocks|mid_block|up_blocks|output_blocks)|^unet\."),
    ("LTX-Video or PixArt", r"transformer_blocks[._]\d+[._]attn1"),
)
_DOUBLE_BLOCK = re.compile(r"(?:transformer|double)_blocks_(\d+)_")


class Model(NamedTuple):
    """A published model, its number of double blocks, and its layers by ``names_of``."""

    name: str
    family: Family
    doubles: int
    layers: Mapping[str, Module]

    def has(self, name: str, size: tuple[int, int] | None) -> bool:
        """Whether it has a layer of this name, and of this size where one is given."""
        layer = self.layers.get(name)
        return layer is not None and size in (None, layer.shape)


@cache
def published() -> tuple[Model, ...]:
    """The models of all families."""
    return tuple(
        Model(name, family, family.depth(config)[0], names_of(family, config))
        for family in FAMILIES
        for name, config in family.published.items()
    )


def names_of(family: Family, config: Mapping[str, object]) -> dict[str, Module]:
    """The layers of a transformer by the names that files give them, black-forest-labs' and diffusers', with
    underscores."""
    layers = [layer for naming in (DIFFUSERS, ORIGINAL) for layer in file_layers(family, config, naming).values()]
    # ComfyUI's name for the rows of q, k and v in a layer that has the MLP's too; XLabs' files have them alone.
    for layer in layers[:]:
        if layer.name.endswith(".linear1") and len(layer.parts) > 1:
            parts = layer.parts[:3]
            rows = max(end for part in parts for _, end in part.rows)
            layers.append(Module(f"{layer.name}_qkv", (rows, *layer.shape[1:]), parts, layer.bias))
    return {layer.name.replace(".", "_"): layer for layer in layers}


def said_to_be(metadata: Mapping[str, str], base: str) -> tuple[str, str]:
    """The model that a file says it is for, and where it says so; "" where it says nothing known.

    ``base``: the model's name in PEFT's settings, or "".
    """
    texts = {f"metadata {key}": metadata.get(key, "") for key in _STATEMENTS} | {"base_model_name_or_path": base}
    for where, text in texts.items():
        for name, pattern in _NAMES:
            if re.search(pattern, text.lower()):
                return name, f"{where}: {text}"
    return "", ""


def named_by_keys(keys: Iterable[str]) -> tuple[str, str]:
    """The model whose layers a file names, and such a key; "" where a FLUX could have them all."""
    for key in keys:
        for name, pattern in _KEYS:
            if re.search(pattern, key):
                return name, f"key {key}"
    return "", ""


def named_by_layers(sizes: Sizes, family: Family) -> str:
    """The published models that have all of these layers; by their names alone where none has their sizes.

    ``sizes``: by name with underscores. For layers that a base of ``family`` lacks. "" where it could be that family's
    as well, of a size that is not published.
    """
    models = [model.name for model in published() if all(model.has(name, size) for name, size in sizes.items())]
    if not models:
        families = {model.family.name for model in published() if all(model.has(name, None) for name in sizes)}
        models = [] if family.name in families else sorted(families)
    return " or ".join(name for name in models if name != family.name)


def also_of(sizes: Sizes, family: Family) -> list[Model]:
    """The published models of other families that have all of these layers in these sizes."""
    others = [model for model in published() if model.family is not family]
    return [model for model in others if all(model.has(name, size) for name, size in sizes.items())]


def fills(names: Iterable[str], doubles: int) -> bool:
    """Whether these layers are of this many double blocks, of each of them, and of nothing else."""
    found = [_DOUBLE_BLOCK.match(name) for name in names]
    return all(found) and {int(each[1]) for each in found if each} == set(range(doubles))
