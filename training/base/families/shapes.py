"""What the shapes of a single file's weights say, or that they are not those of a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import BaseModelError

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


def shapes_of(
    layout: Layout, family: str, matrices: Sequence[str], norm: str, needed: Sequence[str]
) -> list[tuple[int, ...]]:
    """The shapes of the weights of ``matrices`` and then of ``norm``, that of a head; all of ``needed`` are there.

    The first matrix takes the picture's tokens, and has the transformer's width. Raises ``BaseModelError`` where the
    file is no checkpoint of ``family``.
    """
    name, telling = layout.name, [*matrices, norm]
    missing = [module for module in (*telling, *needed) if layout.lacks(module)]
    if missing:
        raise BaseModelError(
            f"{name} is no {family} checkpoint: key {missing[0]}.weight is missing"
            + (f" (and {len(missing) - 1} more)." if len(missing) > 1 else ".")
            + f" Choose a {family} transformer in ComfyUI's layout."
        )
    shapes = [layout.shape(module) for module in telling]
    for module, shape in zip(telling, shapes, strict=True):
        if len(shape) != (1 if module == norm else 2):
            raise BaseModelError(
                f"{name} is no {family} checkpoint: key {layout.key(module)} has the shape {list(shape)}."
            )
    width, head = shapes[0][0], shapes[-1][0]
    if head != HEAD or not width or width % HEAD:
        raise BaseModelError(
            f"{name} has width {width} and heads of {head} (keys {layout.key(telling[0])} and {layout.key(norm)}); "
            f"{family} has heads of {HEAD}, and a width that is a multiple of that."
        )
    return shapes
