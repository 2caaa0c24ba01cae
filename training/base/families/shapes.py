"""What the shapes of a single file's weights say, or that they are not those of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import BaseModelError
from .modules import DIFFUSERS, ORIGINAL

HEAD = 128


class Layout(Protocol):
    """What a family asks of a single file. ``naming``: whose names its modules have."""

    name: str
    naming: str

    def lacks(self, module: str) -> bool:
        """Whether the module has no weight here."""

    def has(self, modules: str) -> bool:
        """Whether there is any key of the module, or of those whose names start with it."""

    def count(self, blocks: str) -> int:
        """How many blocks there are whose names are ``blocks`` and a number."""

    def shape(self, module: str) -> tuple[int, ...]:
        """The shape of the module's weight once it is decoded."""

    def key(self, module: str) -> str:
        """The key of the module's weight."""


@dataclass(frozen=True)
class ConfigKeys:
    """Where a file shows a transformer's configuration: modules by one naming's names.

    ``image``, ``text``: the matrices that take the picture's and the prompt's tokens; ``norm``: that of a head;
    ``doubles``, ``singles``: what the names of blocks are before their number; ``needed``: modules that tell a
    transformer from a part of one.
    """

    image: str
    text: str
    norm: str
    doubles: str
    singles: str
    needed: tuple[str, ...]


# Of FLUX.1 and FLUX.2.
DOUBLE_STREAMS = {
    ORIGINAL: ConfigKeys(
        image="img_in", text="txt_in", norm="double_blocks.0.img_attn.norm.query_norm",
        doubles="double_blocks.", singles="single_blocks.",
        needed=("time_in.in_layer", "double_blocks.0.img_attn.qkv", "final_layer.linear"),
    ),
    DIFFUSERS: ConfigKeys(
        image="x_embedder", text="context_embedder", norm="transformer_blocks.0.attn.norm_q",
        doubles="transformer_blocks.", singles="single_transformer_blocks.",
        needed=("transformer_blocks.0.attn.to_q", "proj_out"),
    ),
}  # fmt: skip


def config_from_shapes(layout: Layout, family: str, keys: ConfigKeys, *needed: str) -> dict[str, Any]:
    """What the shapes in the file say in diffusers' words, which are the same for all families.

    ``needed``: more modules that must be there. Raises ``BaseModelError`` where the file is no checkpoint of this
    ``family``.
    """
    name, matrices = layout.name, (keys.image, keys.text)
    missing = [module for module in (*matrices, keys.norm, *keys.needed, *needed) if layout.lacks(module)]
    if missing:
        raise BaseModelError(
            f"{name} is no {family} checkpoint: key {missing[0]}.weight is missing"
            + (f" (and {len(missing) - 1} more)." if len(missing) > 1 else ".")
            + f" Choose a {family} transformer in ComfyUI's layout."
        )
    (width, taken), (_, context) = (matrix_shape(layout, family, module) for module in matrices)
    (head,) = _shape(layout, family, keys.norm, 1)
    if head != HEAD or not width or width % HEAD:
        raise BaseModelError(
            f"{name} has width {width} and heads of {head} (keys {layout.key(keys.image)} and "
            f"{layout.key(keys.norm)}); {family} has heads of {HEAD}, and a width that is a multiple of that."
        )
    return {
        "in_channels": taken,
        "num_layers": layout.count(keys.doubles),
        "num_single_layers": layout.count(keys.singles),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": context,
    }


def matrix_shape(layout: Layout, family: str, module: str) -> tuple[int, ...]:
    """Outputs and inputs of a matrix. Raises ``BaseModelError`` where its weight is none."""
    return _shape(layout, family, module, 2)


def _shape(layout: Layout, family: str, module: str, dimensions: int) -> tuple[int, ...]:
    shape = layout.shape(module)
    if len(shape) != dimensions:
        raise BaseModelError(
            f"{layout.name} is no {family} checkpoint: key {layout.key(module)} has the shape {list(shape)}."
        )
    return shape
