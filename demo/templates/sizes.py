"""How large each node is drawn: measured in the editor's two renderers, kept beside this file, the larger one taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .layout import Size
from .spec import Node

FILE = Path(__file__).with_name("node_sizes.json")
# For a node that was never measured; the next measurement corrects it.
UNKNOWN = (240, 100)


def read() -> dict[str, Size]:
    """Least width and height by kind of node, title bars left out."""
    return {kind: tuple(size) for kind, size in json.loads(FILE.read_text()).items()} if FILE.is_file() else {}


def larger(one: Mapping[str, Size], other: Mapping[str, Size]) -> dict[str, Size]:
    """The larger width and height of both."""
    kinds = sorted({*one, *other})
    zero = (0, 0)
    return {kind: tuple(map(max, one.get(kind, zero), other.get(kind, zero))) for kind in kinds}


def size_of(node: Node, sizes: Mapping[str, Size]) -> Size:
    """The size that a template gives a node."""
    width, height = sizes.get(node.kind, UNKNOWN)
    return width, node.height or height


def write(sizes: Mapping[str, Size]) -> None:
    FILE.write_text(json.dumps({kind: list(size) for kind, size in sorted(sizes.items())}, indent=1) + "\n")
