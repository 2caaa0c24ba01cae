"""The modules of a FLUX.1 transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .modules import TIME_CHANNELS, Module, double_streams, head_norm, shift_and_scale, split, whole


def modules(config: Mapping[str, Any]) -> Iterator[Module]:
    """All of them in the order in which they run, by black-forest-labs' names.

    There queries, keys and values are the rows of one tensor, in single blocks with those of the feed-forward.
    """
    head = config["attention_head_dim"]
    width = config["num_attention_heads"] * head
    taken = config["in_channels"]
    given = config.get("patch_size", 1) ** 2 * (config.get("out_channels") or taken)
    yield whole("img_in", "x_embedder", width, taken)
    yield whole("txt_in", "context_embedder", width, config["joint_attention_dim"])
    embedders = [("time_in", "timestep_embedder", TIME_CHANNELS)]
    embedders += [("vector_in", "text_embedder", config["pooled_projection_dim"])]
    embedders += [("guidance_in", "guidance_embedder", TIME_CHANNELS)] if config["guidance_embeds"] else []
    for name, theirs, inputs in embedders:
        yield whole(f"{name}.in_layer", f"time_text_embed.{theirs}.linear_1", width, inputs)
        yield whole(f"{name}.out_layer", f"time_text_embed.{theirs}.linear_2", width, width)
    for index in range(config["num_layers"]):
        yield from _double_block(f"double_blocks.{index}.", f"transformer_blocks.{index}.", width, head)
    for index in range(config["num_single_layers"]):
        yield from _single_block(f"single_blocks.{index}.", f"single_transformer_blocks.{index}.", width, head)
    yield shift_and_scale("final_layer.adaLN_modulation.1", "norm_out.linear", width)
    yield whole("final_layer.linear", "proj_out", given, width)


def _double_block(ours: str, theirs: str, width: int, head: int) -> Iterator[Module]:
    for kind, modulation in (("img", "norm1"), ("txt", "norm1_context")):
        yield whole(f"{ours}{kind}_mod.lin", f"{theirs}{modulation}.linear", 6 * width, width)
    widen, narrow = ("net.0.proj", 4 * width), ("net.2", 4 * width)
    yield from double_streams(ours, theirs, width, head, widen, narrow)


def _single_block(ours: str, theirs: str, width: int, head: int) -> Iterator[Module]:
    yield whole(f"{ours}modulation.lin", f"{theirs}norm.linear", 3 * width, width)
    names = [f"{theirs}{each}" for each in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    yield split(f"{ours}linear1", names, [width, width, width, 4 * width], width)
    for name, norm in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        yield head_norm(f"{ours}norm.{name}", f"{theirs}attn.{norm}", head)
    yield whole(f"{ours}linear2", f"{theirs}proj_out", width, 5 * width)
