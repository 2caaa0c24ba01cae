"""The modules of a FLUX.3 image transformer that text-to-image uses. None has a bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .modules import TIME_CHANNELS, Module, head_norm, shift_and_scale, whole

# Kinds of token: the picture's and the prompt's. Those of reference pictures take no part.
_KINDS = (
    ("image", "content_mode_blocks.image.", "mode_blocks.image."),
    ("txt", "txt_mode_blocks.", "txt_mode_blocks."),
)
_LAYERS = (("q_proj", "attn.to_q"), ("k_proj", "attn.to_k"), ("v_proj", "attn.to_v"), ("attn_out", "attn.to_out.0"))


def modules(config: Mapping[str, Any]) -> Iterator[Module]:
    """All of them in the order in which they run, by black-forest-labs' names.

    Each is one module in diffusers' names too. The feed-forward parts are gated: their first matrix has twice as many
    rows as the second takes.
    """
    head = config["attention_head_dim"]
    width = config["num_attention_heads"] * head
    hidden = int(width * config["mlp_ratio"])
    channels = config["in_channels"]
    yield _whole("emb_in.image", "x_embedders.image", width, channels)
    yield _whole("txt_in", "context_embedder", width, config["joint_attention_dim"])
    time = config.get("timestep_channels", TIME_CHANNELS)
    yield _whole("time_in.in_layer", "timestep_embedder.linear_1", width, time)
    yield _whole("time_in.out_layer", "timestep_embedder.linear_2", width, width)
    for blocks in ("early_stream_modulations", "single_stream_modulations"):
        for kind, _, _ in _KINDS:
            yield _whole(f"{blocks}.{kind}.lin", f"{blocks}.{kind}.linear", 3 * width, width)
    for _, ours, theirs in reversed(_KINDS):
        for index in range(config["num_layers"]):
            yield from _block(f"{ours}{index}.", f"{theirs}{index}.", width, head, hidden)
    for index in range(config["num_single_layers"]):
        yield from _block(f"single_blocks.{index}.", f"single_transformer_blocks.{index}.", width, head, hidden)
    yield shift_and_scale("final_layer.image.adaLN_modulation.1", "norm_out.linear", width, bias=False)
    yield _whole("final_layer.image.linear", "proj_out", channels, width)


def _block(ours: str, theirs: str, width: int, head: int, hidden: int) -> Iterator[Module]:
    for name, layer in _LAYERS:
        yield _whole(ours + name, theirs + layer, width, width)
    for name, norm in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        yield head_norm(f"{ours}norm.{name}", f"{theirs}attn.{norm}", head)
    yield _whole(f"{ours}mlp_in", f"{theirs}ff.linear_in", 2 * hidden, width)
    yield _whole(f"{ours}mlp_out", f"{theirs}ff.linear_out", width, hidden)


def _whole(ours: str, theirs: str, rows: int, inputs: int) -> Module:
    return whole(ours, theirs, rows, inputs, bias=False)
