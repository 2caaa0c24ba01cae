"""Checkpoints that a host takes for the real thing, small enough for a test: FLUX.1 and CLIP-L with random weights.

A host reads FLUX's depth and the widths of its inputs off the file, but takes 24 heads of 128 for granted; so the
width is the true one, 3072, and the depth is one block of each kind: 535 million weights, 1.07 GB in bf16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxduel.training.base.families import FAMILIES
from fluxduel.training.base.families.family import Family
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.modules import ORIGINAL

CONTEXT = POOLED = 768
Shapes = dict[str, tuple[int, ...]]


def module_shapes(family: Family, config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of a transformer's tensors in black-forest-labs' layout."""
    shapes: Shapes = {}
    for module in family.modules(config, ORIGINAL):
        shapes[f"{module.name}.{'scale' if module.is_norm else 'weight'}"] = module.shape
        if module.bias:
            shapes[f"{module.name}.bias"] = module.shape[:1]
    return shapes


def flux_shapes(double: int = 1, single: int = 1, context: int = CONTEXT, pooled: int = POOLED) -> Shapes:
    """Names and shapes of a FLUX.1-dev in black-forest-labs' layout."""
    sizes = {"num_layers": double, "num_single_layers": single}
    sizes |= {"joint_attention_dim": context, "pooled_projection_dim": pooled}
    return module_shapes(FLUX1, FLUX1.published["FLUX.1"] | sizes)


def clip_shapes() -> Shapes:
    """Names and shapes of a CLIP-L text encoder in transformers' layout."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, CONTEXT),
        "text_model.embeddings.position_embedding.weight": (77, CONTEXT),
        "text_model.final_layer_norm.weight": (CONTEXT,),
        "text_model.final_layer_norm.bias": (CONTEXT,),
    }
    sizes = {f"self_attn.{part}_proj": (CONTEXT, CONTEXT) for part in "qkv"}
    sizes |= {"self_attn.out_proj": (CONTEXT, CONTEXT), "mlp.fc1": (4 * CONTEXT, CONTEXT)}
    sizes |= {"mlp.fc2": (CONTEXT, 4 * CONTEXT), "layer_norm1": (CONTEXT,), "layer_norm2": (CONTEXT,)}
    for i in range(12):
        for name, size in sizes.items():
            shapes[f"text_model.encoder.layers.{i}.{name}.weight"] = size
            shapes[f"text_model.encoder.layers.{i}.{name}.bias"] = size[:1]
    return shapes


def write_flux(path: Path, seed: int = 0, context: int = CONTEXT, pooled: int = POOLED) -> Path:
    """Write the FLUX with one block of each kind (1.07 GB)."""
    return write_random(path, flux_shapes(context=context, pooled=pooled), seed)


def write_clip(path: Path, seed: int = 0) -> Path:
    """Write the CLIP-L (250 MB)."""
    return write_random(path, clip_shapes(), seed)


def write_headers(path: Path, double: int = 19, single: int = 38, context: int = 4096) -> Path:
    """Write a FLUX.1-dev of which only the header takes room on the disk."""
    return write_hole(path, flux_shapes(double, single, context))


def write_published(path: Path, model: str) -> Path:
    """``write_headers`` for one of the published models of all families, in black-forest-labs' names."""
    family, config = next((each, each.published[model]) for each in FAMILIES if model in each.published)
    return write_hole(path, module_shapes(family, config))


def write_hole(path: Path, shapes: Shapes) -> Path:
    """Write a file whose weights are a hole, and read as zeros."""
    with open(path, "wb") as stream:
        stream.write(_header(shapes))
        stream.truncate(stream.tell() + 2 * sum(math.prod(shape) for shape in shapes.values()))
    return path


def write_random(path: Path, shapes: Shapes, seed: int = 0) -> Path:
    """Write a file of random weights in bf16, none of which is zero, and with which activations are of order one."""
    with open(path, "wb") as stream:
        stream.write(_header(shapes))
        for weight in _weights(shapes, seed):
            stream.write(weight.view(torch.uint8).numpy())
    return path


def _weights(shapes: Shapes, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if name.endswith(("scale", "norm.weight", "norm1.weight", "norm2.weight")):
            weight = torch.empty(shape).uniform_(0.8, 1.2, generator=generator)
        elif len(shape) == 1:
            weight = torch.empty(shape).uniform_(-0.2, 0.2, generator=generator)
        else:
            bound = math.sqrt(3 / shape[1])
            weight = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        yield weight.bfloat16()


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
