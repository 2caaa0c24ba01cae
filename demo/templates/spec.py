"""What a template is before it has places and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Node:
    """A node of a template.

    ``values``: widgets that are not at their defaults. ``wires``: socket by name -> (key of another node, name of its
    output). ``models``: files that the node's widgets name, as the editor's dialog for missing models wants them.
    ``height``: for a node that takes any, such as one with text in it. ``folded``: shown as its title alone.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    wires: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    title: str = ""
    models: Sequence[Mapping[str, str]] = ()
    height: int = 0
    folded: bool = False


@dataclass(frozen=True)
class Group:
    """A box with a title around ``columns`` of nodes, by their keys.

    ``width``: of a column. ``under_note``: the graph's note lies above this group, and in a column of its own before
    the first one where no group is under it.
    """

    title: str
    columns: Sequence[Sequence[str]]
    width: int = 280
    under_note: bool = False


@dataclass(frozen=True)
class Template:
    """A graph. ``name``: its file's, which is what the editor's list of templates shows.

    ``label``: one or two words that its thumbnail shows large, on graphs that look alike. ``more``: what a second note
    says, folded below the first where that lies above a group.
    """

    name: str
    label: str
    note: str
    note_height: int
    nodes: Mapping[str, Node]
    groups: Sequence[Group]
    more: str = ""


@dataclass(frozen=True)
class Blueprint:
    """A subgraph that the editor's list of nodes offers under ``name``, its file's.

    ``words``: what else it is found by. ``columns``: its nodes from left to right, by their keys. ``inputs``: socket
    by name -> the wire of its nodes that comes from outside; ``outputs``: socket by name -> the wire that it hands on.
    """

    name: str
    description: str
    words: Sequence[str]
    nodes: Mapping[str, Node]
    columns: Sequence[Sequence[str]]
    inputs: Mapping[str, tuple[str, str]]
    outputs: Mapping[str, tuple[str, str]]
