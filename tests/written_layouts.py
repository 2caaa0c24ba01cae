"""FLUX.1 files in every layout that people have, written from the descriptions of the formats, not by their reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1, "in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128,
    "num_attention_heads": 2, "joint_attention_dim": 64, "pooled_projection_dim": 32, "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
WIDTH = 256
# NormalFloat of 4 bits (QLoRA, arXiv:2305.14314, appendix E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

State = dict[str, Tensor]


class Written(NamedTuple):
    """What a file holds, and what its weights are, by black-forest-labs' keys.

    ``rows``: of weights that stay int8: their values, scales and the group in which they are rotated.
    """

    tensors: State
    weights: State
    metadata: dict[str, str] = {}
    rows: dict[str, tuple[Tensor, Tensor, int]] = {}


def random_state(seed: int = 0) -> State:
    """Random weights of a small FLUX.1 by black-forest-labs' keys, in fp32, written down shape by shape."""
    w = WIDTH
    linear = {"img_in": (w, 64), "txt_in": (w, 64), "final_layer.linear": (64, w)}
    linear |= {"final_layer.adaLN_modulation.1": (2 * w, w)}
    for name, inputs in (("time_in", 256), ("vector_in", 32), ("guidance_in", 256)):
        linear |= {f"{name}.in_layer": (w, inputs), f"{name}.out_layer": (w, w)}
    norms = []
    for i in range(2):
        for kind in ("img", "txt"):
            block = f"double_blocks.{i}.{kind}_"
            linear |= {f"{block}mod.lin": (6 * w, w), f"{block}attn.qkv": (3 * w, w), f"{block}attn.proj": (w, w)}
            linear |= {f"{block}mlp.0": (4 * w, w), f"{block}mlp.2": (w, 4 * w)}
            norms += [f"{block}attn.norm.query_norm", f"{block}attn.norm.key_norm"]
        block = f"single_blocks.{i}."
        linear |= {f"{block}modulation.lin": (3 * w, w), f"{block}linear1": (7 * w, w), f"{block}linear2": (w, 5 * w)}
        norms += [f"{block}norm.query_norm", f"{block}norm.key_norm"]
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in linear.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * shape[1] ** -0.5
        state[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * 0.02
    return state | {f"{name}.scale": 1 + 0.1 * torch.randn(128, generator=generator) for name in norms}


def as_original(state: Mapping[str, Tensor]) -> State:
    """By black-forest-labs' keys, from diffusers'."""
    original: State = {}

    def take(ours: str, *theirs: str, swapped: bool = False) -> None:
        for end in ("weight", "bias"):
            whole = torch.cat([state[f"{name}.{end}"] for name in theirs])
            original[f"{ours}.{end}"] = whole.roll(len(whole) // 2, 0) if swapped else whole

    embedders = {"time_in": "timestep", "vector_in": "text", "guidance_in": "guidance"}
    for ours, theirs in embedders.items():
        if f"time_text_embed.{theirs}_embedder.linear_1.weight" in state:
            take(f"{ours}.in_layer", f"time_text_embed.{theirs}_embedder.linear_1")
            take(f"{ours}.out_layer", f"time_text_embed.{theirs}_embedder.linear_2")
    take("img_in", "x_embedder")
    take("txt_in", "context_embedder")
    take("final_layer.linear", "proj_out")
    take("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True)
    for i in range(2):
        ours, theirs = f"double_blocks.{i}.", f"transformer_blocks.{i}."
        for kind, norm, letters, out, mlp, norms in (
            ("img", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", "ff", ("norm_q", "norm_k")),
            ("txt", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context",
             ("norm_added_q", "norm_added_k")),
        ):  # fmt: skip
            take(f"{ours}{kind}_mod.lin", f"{theirs}{norm}.linear")
            take(f"{ours}{kind}_attn.qkv", *(f"{theirs}attn.{letter}" for letter in letters))
            take(f"{ours}{kind}_attn.proj", f"{theirs}attn.{out}")
            take(f"{ours}{kind}_mlp.0", f"{theirs}{mlp}.net.0.proj")
            take(f"{ours}{kind}_mlp.2", f"{theirs}{mlp}.net.2")
            for which, name in zip(("query", "key"), norms, strict=True):
                original[f"{ours}{kind}_attn.norm.{which}_norm.scale"] = state[f"{theirs}attn.{name}.weight"]
        ours, theirs = f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
        take(f"{ours}modulation.lin", f"{theirs}norm.linear")
        take(f"{ours}linear1", *(f"{theirs}{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")))
        take(f"{ours}linear2", f"{theirs}proj_out")
        for which, name in (("query", "norm_q"), ("key", "norm_k")):
            original[f"{ours}norm.{which}_norm.scale"] = state[f"{theirs}attn.{name}.weight"]
    return original


def quantisable(key: str) -> bool:
    """Whether quantising tools take this tensor: the weights of linear layers in blocks."""
    return key.endswith(".weight") and "_blocks." in key


def note(**words: object) -> Tensor:
    """ComfyUI's note beside a layer: JSON as bytes."""
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)


def plain(dtype: torch.dtype) -> Callable[[State], Written]:
    def write(state: State) -> Written:
        tensors = {key: tensor.to(dtype) for key, tensor in state.items()}
        return Written(tensors, {key: tensor.float() for key, tensor in tensors.items()})

    return write


def _each(state: State, encode: Callable[[str, Tensor], tuple[State, Tensor]]) -> Written:
    tensors, weights = {}, {}
    for key, tensor in state.items():
        if quantisable(key) and tensor.ndim == 2:
            made, weights[key] = encode(key, tensor)
            tensors |= {key.removesuffix(".weight") + f".{end}": value for end, value in made.items()}
        else:
            tensors[key] = tensor.to(torch.bfloat16)
            weights[key] = tensors[key].float()
    return Written(tensors, weights)


def _fp8(weight: Tensor, dtype: torch.dtype, rows: bool) -> tuple[Tensor, Tensor, Tensor]:
    largest = weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()
    scale = largest / torch.finfo(dtype).max
    values = (weight / scale).to(dtype)
    return values, scale, values.float() * scale


def scaled_old(full_precision: bool, dtype: torch.dtype = torch.float8_e4m3fn) -> Callable[[State], Written]:
    """The first layout: ``scaled_fp8`` tells the type, and by two elements that products need full precision."""

    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        values, scale, meant = _fp8(weight, dtype, rows=False)
        return {"weight": values, "scale_weight": scale.reshape(1), "scale_input": torch.ones(1)}, meant

    def write(state: State) -> Written:
        written = _each(state, encode)
        written.tensors["scaled_fp8"] = torch.empty(2 if full_precision else 0, dtype=dtype)
        return written

    return write


def scaled_new(dtype: torch.dtype, rows: bool, header: bool) -> Callable[[State], Written]:
    """The second: a note beside each layer, or one in the header for all."""
    name = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}[dtype]

    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        values, scale, meant = _fp8(weight, dtype, rows)
        made = {"weight": values, "weight_scale": scale, "input_scale": torch.tensor(0.5)}
        return made | ({} if header else {"comfy_quant": note(format=name)}), meant

    def write(state: State) -> Written:
        written = _each(state, encode)
        if not header:
            return written
        layers = {key.removesuffix(".weight"): {"format": name} for key in state if quantisable(key)}
        return written._replace(
            metadata={"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
        )

    return write


def scaled_blocks(block: int, two_levels: bool) -> Callable[[State], Written]:
    """musubi-tuner's: a scale for each block of a row's inputs, in its newer version with a factor for all of them."""

    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        blocks = weight.unflatten(1, (-1, block))
        scale = blocks.abs().amax(2, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        outer = scale.max() if two_levels else torch.ones(())
        inner = scale / outer
        values = (blocks / (inner * outer)).to(torch.float8_e4m3fn)
        made = {"weight": values.flatten(1), "scale_weight": inner}
        made |= {"scale_weight_tensor": outer} if two_levels else {}
        return made, (values.float() * (inner * outer)).flatten(1)

    return lambda state: _each(state, encode)


def _sign(row: int, column: int, size: int) -> int:
    """An entry of the regular Hadamard matrix: -1 for each digit to the base of 4 at which the two add up to 3."""
    sign = 1
    while size > 1:
        sign = -sign if row % 4 + column % 4 == 3 else sign
        row, column, size = row // 4, column // 4, size // 4
    return sign


def _turned(weight: Tensor, group: int) -> Tensor:
    matrix = torch.tensor([[_sign(i, j, group) for j in range(group)] for i in range(group)]) / group**0.5
    return torch.cat([piece @ matrix for piece in weight.split(group, 1)], 1)


def integers(
    group: int = 0, scalar: bool = False, bits: int = 8, nested: bool = False, column: bool = True
) -> Callable[[State], Written]:
    """``int8_tensorwise``, or ``convrot_w4a4`` for 4 bits; rotated in a ``group``, with one scale if ``scalar``."""

    def write(state: State) -> Written:
        rows: dict[str, tuple[Tensor, Tensor, int]] = {}

        def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
            turned = _turned(weight, group) if group else weight
            most = 2 ** (bits - 1) - 1
            largest = turned.abs().max().reshape(()) if scalar else turned.abs().amax(1, keepdim=True)
            scale = largest / most
            values = (turned / scale).round().to(torch.int8)
            rows[key] = (values, scale.flatten().expand(len(values)), group)
            meant = values * scale
            turning = {"convrot": True, "convrot_groupsize": group} if group else {}
            if bits == 8:
                words = {"params": turning} if nested else turning
                made = {"weight": values, "comfy_quant": note(format="int8_tensorwise", **words)}
            else:
                pairs = values.to(torch.int32) & 15
                packed = (pairs[:, 0::2] | pairs[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
                made = {"weight": packed, "comfy_quant": note(format="convrot_w4a4", convrot_groupsize=group)}
            made["weight_scale"] = scale if column else scale.flatten()
            return made, _turned(meant, group) if group else meant

        return _each(state, encode)._replace(rows=rows)

    return write


def _tiled(scales: Tensor) -> Tensor:
    """cuBLAS's order of block scales, place by place (cuBLAS documentation, 1D block scaling factors layout)."""
    rows, columns = scales.shape
    height, width = -(-rows // 128) * 128, -(-columns // 4) * 4
    flat = torch.zeros(height * width, dtype=scales.dtype)
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    tile = r // 128 * (width // 4) + c // 4
    flat[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scales
    return flat.reshape(height, width)


def nvfp4(smoothed: bool) -> Callable[[State], Written]:
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        outer = weight.abs().max() / (448 * 6)
        blocks = weight.unflatten(1, (-1, 16))
        scales = (blocks.abs().amax(2) / 6 / outer).to(torch.float8_e4m3fn)
        steps = (outer * scales.float())[..., None]
        codes = ((blocks / steps).abs()[..., None] - table).abs().argmin(-1)
        meant = (table[codes] * blocks.sign() * steps).flatten(1)
        codes = (codes + 8 * (blocks < 0)).flatten(1)
        packed = (codes[:, 0::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        made = {"weight": packed, "weight_scale": _tiled(scales.view(torch.uint8)).view(torch.float8_e4m3fn)}
        made |= {"weight_scale_2": outer, "comfy_quant": note(format="nvfp4")}
        if smoothed:
            made["pre_quant_scale"] = torch.linspace(0.5, 2, weight.shape[1])
            meant = meant * made["pre_quant_scale"]
        return made, meant

    return lambda state: _each(state, encode)


def mxfp8(state: State) -> Written:
    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        blocks = weight.unflatten(1, (-1, 32))
        exponents = (blocks.abs().amax(2) / 448).log2().ceil()
        values = (blocks / 2 ** exponents[..., None]).to(torch.float8_e4m3fn)
        made = {"weight": values.flatten(1), "weight_scale": _tiled((exponents + 127).to(torch.uint8))}
        return made | {"comfy_quant": note(format="mxfp8")}, (values.float() * 2 ** exponents[..., None]).flatten(1)

    return _each(state, encode)


def bitsandbytes(nested: bool) -> Callable[[State], Written]:
    table = torch.tensor(NF4)

    def encode(key: str, weight: Tensor) -> tuple[State, Tensor]:
        blocks = weight.reshape(-1, 64)
        largest = blocks.abs().amax(1)
        words: dict[str, object] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": weight.shape}
        made: State = {"weight.quant_map": table.clone(), "weight.absmax": largest}
        if nested:
            inner, offset = torch.linspace(-1, 1, 256), float(largest.mean())
            groups = torch.nn.functional.pad(largest - offset, (0, -len(largest) % 256)).reshape(-1, 256)
            outer = groups.abs().amax(1)
            places = ((groups / outer[:, None] + 1) * 127.5).round().to(torch.uint8).flatten()[: len(largest)]
            largest = inner[places.int()] * outer.repeat_interleave(256)[: len(largest)] + offset
            made |= {"weight.absmax": places, "weight.nested_absmax": outer, "weight.nested_quant_map": inner.clone()}
            words |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        places = (blocks / largest[:, None])[..., None].sub(table).abs().argmin(-1)
        made["weight"] = (places.flatten()[0::2] << 4 | places.flatten()[1::2]).to(torch.uint8)[:, None]
        made["weight.quant_state.bitsandbytes__nf4"] = note(**words)
        return made, (table[places] * largest[:, None]).reshape(weight.shape)

    return lambda state: _each(state, encode)


# How to write it, what it is called, and the error of its weights to those that were written, if they are the same.
LAYOUTS: dict[str, tuple[Callable[[State], Written], str, float | None]] = {
    "bf16": (plain(torch.bfloat16), "bf16", 0.003),
    "fp16": (plain(torch.float16), "fp16", 0.0004),
    "fp32": (plain(torch.float32), "fp32", 0.0),
    "fp8 e4m3": (plain(torch.float8_e4m3fn), "fp8", 0.04),
    "fp8 e5m2": (plain(torch.float8_e5m2), "fp8", 0.08),
    "scaled fp8, old": (scaled_old(False), "fp8 with scales", 0.04),
    "scaled fp8, old, full precision": (scaled_old(True), "fp8 with scales", 0.04),
    "scaled fp8, new": (scaled_new(torch.float8_e4m3fn, rows=False, header=False), "fp8 with scales", 0.04),
    "scaled fp8, noted ahead": (scaled_new(torch.float8_e4m3fn, rows=False, header=True), "fp8 with scales", 0.04),
    "scaled fp8 e5m2, by rows": (scaled_new(torch.float8_e5m2, rows=True, header=False), "fp8 with scales", 0.08),
    "fp8 by blocks": (scaled_blocks(64, two_levels=False), "fp8 with scales", 0.04),
    "fp8 by blocks, on two levels": (scaled_blocks(16, two_levels=True), "fp8 with scales", 0.04),
    "int8": (integers(), "int8", 0.01),
    "int8, flat scales": (integers(column=False), "int8", 0.01),
    "int8, one scale": (integers(scalar=True), "int8", 0.015),
    "int8, rotated": (integers(group=256), "int8, rotated", 0.01),
    "int8, rotated by 64, nested note": (integers(group=64, nested=True), "int8, rotated", 0.01),
    "int4, rotated": (integers(group=256, bits=4, column=False), "int4, rotated", 0.17),
    "nvfp4": (nvfp4(False), "nvfp4", 0.11),
    "nvfp4, smoothed": (nvfp4(True), "nvfp4", None),
    "mxfp8": (mxfp8, "mxfp8", 0.05),
    "bitsandbytes nf4": (bitsandbytes(False), "bitsandbytes 4-bit", 0.11),
    "bitsandbytes nf4, nested": (bitsandbytes(True), "bitsandbytes 4-bit", 0.11),
}


def save(written: Written, path: Path, prefix: str = "") -> Path:
    """Write it down, its keys after ``prefix``."""
    tensors = {f"{prefix}{key}": tensor.contiguous() for key, tensor in written.tensors.items()}
    save_file(tensors, path, written.metadata or None)
    return path
