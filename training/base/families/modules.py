"""The modules of a transformer by the names that files give them, and by diffusers'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

ORIGINAL, DIFFUSERS = "black-forest-labs", "diffusers"

TIME_CHANNELS = 256


class Part(NamedTuple):
    """The rows of a module's tensors that make up diffusers' module ``name``: ``rows`` one after the other."""

    name: str
    rows: tuple[tuple[int, int], ...]


class Module(NamedTuple):
    """A module of a file. ``shape``: of its weight: (out, inputs), or (channels,) of a norm. ``bias``: has it one."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    bias: bool

    @property
    def is_norm(self) -> bool:
        """Whether it is the norm of queries or keys."""
        return len(self.shape) == 1


def in_naming(original: Iterable[Module], naming: str) -> Iterator[Module]:
    """The modules of a file with the names of ``naming``, from those with black-forest-labs' names."""
    if naming == ORIGINAL:
        yield from original
        return
    for module in original:
        for part in module.parts:
            rows = sum(end - start for start, end in part.rows)
            parts = (Part(part.name, ((0, rows),)),)
            yield Module(part.name, (rows, *module.shape[1:]), parts, module.bias)


def whole(ours: str, theirs: str, rows: int, inputs: int, bias: bool = True) -> Module:
    """A module that is one in both namings."""
    return Module(ours, (rows, inputs), (Part(theirs, ((0, rows),)),), bias)


def head_norm(ours: str, theirs: str, channels: int) -> Module:
    """The norm of queries or keys."""
    return Module(ours, (channels,), (Part(theirs, ((0, channels),)),), False)


def split(ours: str, theirs: list[str], rows: list[int], inputs: int, bias: bool = True) -> Module:
    """A module whose rows are several modules of diffusers', one after the other."""
    starts = [sum(rows[:index]) for index in range(len(rows))]
    parts = (Part(name, ((start, start + count),)) for name, start, count in zip(theirs, starts, rows, strict=True))
    return Module(ours, (sum(rows), inputs), tuple(parts), bias)


def shift_and_scale(ours: str, theirs: str, width: int, bias: bool = True) -> Module:
    """The last modulation, which has shift before scale in the original and after it in diffusers."""
    return Module(ours, (2 * width, width), (Part(theirs, ((width, 2 * width), (0, width))),), bias)


def double_streams(
    ours: str,
    theirs: str,
    width: int,
    head: int,
    widen: tuple[str, int],
    narrow: tuple[str, int],
    bias: bool = True,
) -> Iterator[Module]:
    """Attention and feed-forward part of a double block's two streams, in which queries, keys and values are one.

    ``ours``, ``theirs``: the block's name with a dot. ``widen``: the end of diffusers' name of the matrix that makes
    the hidden layer, and its rows; ``narrow``: of the one that takes it, and its inputs.
    """
    streams = (
        ("img", "to_q to_k to_v", "norm_q norm_k", "to_out.0", "ff"),
        ("txt", "add_q_proj add_k_proj add_v_proj", "norm_added_q norm_added_k", "to_add_out", "ff_context"),
    )
    for kind, projections, norms, out, part in streams:
        names = [f"{theirs}attn.{each}" for each in projections.split()]
        yield split(f"{ours}{kind}_attn.qkv", names, [width] * 3, width, bias)
        for name, norm in zip(("query_norm", "key_norm"), norms.split(), strict=True):
            yield head_norm(f"{ours}{kind}_attn.norm.{name}", f"{theirs}attn.{norm}", head)
        yield whole(f"{ours}{kind}_attn.proj", f"{theirs}attn.{out}", width, width, bias)
        yield whole(f"{ours}{kind}_mlp.0", f"{theirs}{part}.{widen[0]}", widen[1], width, bias)
        yield whole(f"{ours}{kind}_mlp.2", f"{theirs}{part}.{narrow[0]}", width, narrow[1], bias)
