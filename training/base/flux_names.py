"""The modules of a FLUX.1 transformer by black-forest-labs' names, as files have them, and by diffusers'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ORIGINAL, DIFFUSERS = "black-forest-labs", "diffusers"

_TIME_CHANNELS = 256


class Part(NamedTuple):
    """The rows of a module's tensors that make up diffusers' module ``name``: ``rows`` one after the other."""

    name: str
    rows: tuple[tuple[int, int], ...]


class Module(NamedTuple):
    """A module of a file. ``shape``: of its weight: (out, inputs), or (channels,) of a norm, which has no bias."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def is_norm(self) -> bool:
        """Whether it is the norm of queries or keys."""
        return len(self.shape) == 1


def modules(config: Mapping[str, Any], naming: str) -> Iterator[Module]:
    """All modules of the transformer that ``config`` (diffusers') describes, in the order in which they run.

    ``naming``: ``ORIGINAL`` or ``DIFFUSERS``. In the original, queries, keys and values are the rows of one tensor, in
    single blocks with those of the feed-forward, and the last modulation has shift before scale.
    """
    original = _modules(config)
    if naming == ORIGINAL:
        return original
    return (_alone(module, part) for module in original for part in module.parts)


def _alone(module: Module, part: Part) -> Module:
    rows = sum(end - start for start, end in part.rows)
    return Module(part.name, (rows, *module.shape[1:]), (Part(part.name, ((0, rows),)),))


def _modules(config: Mapping[str, Any]) -> Iterator[Module]:
    head = config["attention_head_dim"]
    width = config["num_attention_heads"] * head
    taken = config["in_channels"]
    given = config.get("patch_size", 1) ** 2 * (config.get("out_channels") or taken)
    yield _whole("img_in", "x_embedder", width, taken)
    yield _whole("txt_in", "context_embedder", width, config["joint_attention_dim"])
    embedders = [("time_in", "timestep_embedder", _TIME_CHANNELS)]
    embedders += [("vector_in", "text_embedder", config["pooled_projection_dim"])]
    embedders += [("guidance_in", "guidance_embedder", _TIME_CHANNELS)] if config["guidance_embeds"] else []
    for name, theirs, inputs in embedders:
        yield _whole(f"{name}.in_layer", f"time_text_embed.{theirs}.linear_1", width, inputs)
        yield _whole(f"{name}.out_layer", f"time_text_embed.{theirs}.linear_2", width, width)
    for index in range(config["num_layers"]):
        yield from _double_block(f"double_blocks.{index}.", f"transformer_blocks.{index}.", width, head)
    for index in range(config["num_single_layers"]):
        yield from _single_block(f"single_blocks.{index}.", f"single_transformer_blocks.{index}.", width, head)
    swapped = Part("norm_out.linear", ((width, 2 * width), (0, width)))
    yield Module("final_layer.adaLN_modulation.1", (2 * width, width), (swapped,))
    yield _whole("final_layer.linear", "proj_out", given, width)


def _double_block(ours: str, theirs: str, width: int, head: int) -> Iterator[Module]:
    for kind, norm in (("img", "norm1"), ("txt", "norm1_context")):
        yield _whole(f"{ours}{kind}_mod.lin", f"{theirs}{norm}.linear", 6 * width, width)
    streams = (
        ("img", "to_q to_k to_v", "norm_q norm_k", "to_out.0", "ff"),
        ("txt", "add_q_proj add_k_proj add_v_proj", "norm_added_q norm_added_k", "to_add_out", "ff_context"),
    )
    for kind, projections, norms, out, feed_forward in streams:
        yield _split(
            f"{ours}{kind}_attn.qkv", [f"{theirs}attn.{each}" for each in projections.split()], [width] * 3, width
        )
        for name, norm in zip(("query_norm", "key_norm"), norms.split(), strict=True):
            yield _norm(f"{ours}{kind}_attn.norm.{name}", f"{theirs}attn.{norm}", head)
        yield _whole(f"{ours}{kind}_attn.proj", f"{theirs}attn.{out}", width, width)
        yield _whole(f"{ours}{kind}_mlp.0", f"{theirs}{feed_forward}.net.0.proj", 4 * width, width)
        yield _whole(f"{ours}{kind}_mlp.2", f"{theirs}{feed_forward}.net.2", width, 4 * width)


def _single_block(ours: str, theirs: str, width: int, head: int) -> Iterator[Module]:
    yield _whole(f"{ours}modulation.lin", f"{theirs}norm.linear", 3 * width, width)
    names = [f"{theirs}{each}" for each in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    yield _split(f"{ours}linear1", names, [width, width, width, 4 * width], width)
    for name, norm in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        yield _norm(f"{ours}norm.{name}", f"{theirs}attn.{norm}", head)
    yield _whole(f"{ours}linear2", f"{theirs}proj_out", width, 5 * width)


def _whole(ours: str, theirs: str, rows: int, inputs: int) -> Module:
    return Module(ours, (rows, inputs), (Part(theirs, ((0, rows),)),))


def _norm(ours: str, theirs: str, channels: int) -> Module:
    return Module(ours, (channels,), (Part(theirs, ((0, channels),)),))


def _split(ours: str, theirs: list[str], rows: list[int], inputs: int) -> Module:
    starts = [sum(rows[:index]) for index in range(len(rows))]
    parts = (Part(name, ((start, start + count),)) for name, start, count in zip(theirs, starts, rows, strict=True))
    return Module(ours, (sum(rows), inputs), tuple(parts))
