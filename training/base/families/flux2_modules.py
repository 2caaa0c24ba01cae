"""The modules of a FLUX.2 transformer. None has a bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .modules import TIME_CHANNELS, Module, double_streams, head_norm, shift_and_scale, whole


def modules(config: Mapping[str, Any]) -> Iterator[Module]:
    """All of them in the order in which they run, by black-forest-labs' names.

    The feed-forward parts are gated: their first matrix has twice as many rows as the second takes. In single blocks it
    is one tensor with queries, keys and values, in diffusers' names too.
    """
    head = config["attention_head_dim"]
    width = config["num_attention_heads"] * head
    hidden = int(width * config["mlp_ratio"])
    taken = config["in_channels"]
    given = config.get("patch_size", 1) ** 2 * (config.get("out_channels") or taken)
    time = config.get("timestep_guidance_channels", TIME_CHANNELS)
    yield _whole("img_in", "x_embedder", width, taken)
    yield _whole("txt_in", "context_embedder", width, config["joint_attention_dim"])
    embedders = [("time_in", "timestep_embedder")]
    embedders += [("guidance_in", "guidance_embedder")] if config["guidance_embeds"] else []
    for name, theirs in embedders:
        yield _whole(f"{name}.in_layer", f"time_guidance_embed.{theirs}.linear_1", width, time)
        yield _whole(f"{name}.out_layer", f"time_guidance_embed.{theirs}.linear_2", width, width)
    for name, sets in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6)):
        yield _whole(f"{name}.lin", f"{name}.linear", sets * width, width)
    yield _whole("single_stream_modulation.lin", "single_stream_modulation.linear", 3 * width, width)
    for index in range(config["num_layers"]):
        ours, theirs = f"double_blocks.{index}.", f"transformer_blocks.{index}."
        widen, narrow = ("linear_in", 2 * hidden), ("linear_out", hidden)
        yield from double_streams(ours, theirs, width, head, widen, narrow, bias=False)
    for index in range(config["num_single_layers"]):
        ours, theirs = f"single_blocks.{index}.", f"single_transformer_blocks.{index}.attn."
        yield _whole(f"{ours}linear1", f"{theirs}to_qkv_mlp_proj", 3 * width + 2 * hidden, width)
        for name, norm in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
            yield head_norm(f"{ours}norm.{name}", f"{theirs}{norm}", head)
        yield _whole(f"{ours}linear2", f"{theirs}to_out", width, width + hidden)
    yield shift_and_scale("final_layer.adaLN_modulation.1", "norm_out.linear", width, bias=False)
    yield _whole("final_layer.linear", "proj_out", given, width)


def _whole(ours: str, theirs: str, rows: int, inputs: int) -> Module:
    return whole(ours, theirs, rows, inputs, bias=False)
