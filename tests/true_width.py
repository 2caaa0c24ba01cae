"""Checkpoints that a host takes for the real thing, small enough for a test: FLUX.1 and CLIP-L with random weights.

A host reads FLUX's depth and the widths of its inputs off the file, but takes 24 heads of 128 for granted; so the
width is the true one, 3072, and the depth is one block of each kind: 535 million weights, 1.07 GB in bf16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fluxduel.training.base.families import FAMILIES
from fluxduel.training.base.families.modules import ORIGINAL

WIDTH, HEAD = 3072, 128
CONTEXT = POOLED = 768
Shapes = dict[str, tuple[int, ...]]


def flux_shapes(double: int = 1, single: int = 1, context: int = CONTEXT, pooled: int = POOLED) -> Shapes:
    """Names and shapes of a FLUX.1-dev in black-forest-labs' layout."""
    shapes: Shapes = {}

    def linear(name: str, size_in: int, size_out: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (size_out, size_in), (size_out,)

    linear("img_in", 64, WIDTH)
    linear("txt_in", context, WIDTH)
    for name, size_in in (("time_in", 256), ("vector_in", pooled), ("guidance_in", 256)):
        linear(f"{name}.in_layer", size_in, WIDTH)
        linear(f"{name}.out_layer", WIDTH, WIDTH)
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linear(f"{block}_mod.lin", WIDTH, 6 * WIDTH)
            linear(f"{block}_attn.qkv", WIDTH, 3 * WIDTH)
            shapes[f"{block}_attn.norm.query_norm.scale"] = shapes[f"{block}_attn.norm.key_norm.scale"] = (HEAD,)
            linear(f"{block}_attn.proj", WIDTH, WIDTH)
            linear(f"{block}_mlp.0", WIDTH, 4 * WIDTH)
            linear(f"{block}_mlp.2", 4 * WIDTH, WIDTH)
    for i in range(single):
        block = f"single_blocks.{i}"
        linear(f"{block}.linear1", WIDTH, 7 * WIDTH)
        linear(f"{block}.linear2", 5 * WIDTH, WIDTH)
        shapes[f"{block}.norm.query_norm.scale"] = shapes[f"{block}.norm.key_norm.scale"] = (HEAD,)
        linear(f"{block}.modulation.lin", WIDTH, 3 * WIDTH)
    linear("final_layer.linear", WIDTH, 64)
    linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)
    return shapes


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
    """Write the FLUX with one block of each kind (1.07 GB). No weight is zero, and all activations are of order one."""
    return _write(path, flux_shapes(context=context, pooled=pooled), seed)


def write_clip(path: Path, seed: int = 0) -> Path:
    """Write the CLIP-L (250 MB)."""
    return _write(path, clip_shapes(), seed)


def write_headers(path: Path, double: int = 19, single: int = 38, context: int = 4096) -> Path:
    """Write a FLUX.1-dev of which only the header takes room on the disk."""
    return write_hole(path, flux_shapes(double, single, context))


def write_published(path: Path, model: str) -> Path:
    """``write_headers`` for one of the published models of all families, in black-forest-labs' names."""
    family, config = next((each, each.published[model]) for each in FAMILIES if model in each.published)
    modules = family.modules(config, ORIGINAL)
    return write_hole(path, {f"{each.name}.{'scale' if each.is_norm else 'weight'}": each.shape for each in modules})


def write_hole(path: Path, shapes: Shapes) -> Path:
    """Write a file whose weights are a hole, and read as zeros."""
    with open(path, "wb") as stream:
        stream.write(_header(shapes))
        stream.truncate(stream.tell() + 2 * sum(math.prod(shape) for shape in shapes.values()))
    return path


def _write(path: Path, shapes: Shapes, seed: int) -> Path:
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
