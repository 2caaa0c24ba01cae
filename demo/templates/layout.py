"""Where everything of a template is drawn: columns from left to right, boxes around them, and a view of it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .spec import Group, Node, Template

Size = tuple[int, int]
Box = tuple[int, int, int, int]

TITLE = 30  # above a node's position
GROUP_TITLE = 44
MARGIN = 12  # between a box and its nodes
GAP = 14
LINE = 34  # below a title
COLUMN_GAP = 22
GROUP_GAP = 20
NOTE_WIDTH = 300
NOTE = "note"
MORE = "more"
MORE_HEIGHT = 300
# What the editor's bars leave of a window of 1600 x 1000: left, top, right, bottom.
WINDOW = (70, 117, 1590, 992)
LARGEST_SCALE = 1.0
# Frontend 1.32 draws Nodes 2.0 this much larger than the graph says, and keeps the scale.
LARGEST_UNIT = 1.2


@dataclass(frozen=True)
class Layout:
    """Boxes (left, top, width, height) by key of the node, title bars left out, and of each group."""

    nodes: Mapping[str, Box]
    groups: tuple[Box, ...]
    scale: float
    offset: tuple[float, float]


def lay_out(template: Template, size_of: Callable[[Node], Size]) -> Layout:
    """Places for all nodes: groups from left to right, the note above one of them or before the first."""
    nodes: dict[str, Box] = {}
    groups = []
    left = 0
    if not any(group.under_note for group in template.groups):
        nodes[NOTE] = (0, GROUP_TITLE + TITLE, NOTE_WIDTH, template.note_height)
        left = NOTE_WIDTH + GROUP_GAP
    for group in template.groups:
        note = GROUP_TITLE + TITLE
        more = note + template.note_height + GAP + TITLE
        top = 0 if not group.under_note else more + GAP if template.more else more - TITLE
        box, placed = place(group, template.nodes, size_of, left, top)
        if group.under_note:
            nodes[NOTE] = (left, note, box[2], template.note_height)
        if group.under_note and template.more:
            nodes[MORE] = (left, more, box[2], MORE_HEIGHT)
        groups.append(box)
        nodes |= placed
        left += box[2] + GROUP_GAP
    boxes = [nodes[NOTE], *groups]
    right = max(left + width for left, _, width, _ in boxes)
    bottom = max(top + height for _, top, _, height in boxes)
    x0, y0, x1, y1 = WINDOW
    scale = min((x1 - x0) / right / LARGEST_UNIT, (y1 - y0) / bottom / LARGEST_UNIT, LARGEST_SCALE)
    return Layout(nodes, tuple(groups), round(scale, 3), (round(x0 / scale, 1), round(y0 / scale, 1)))


def _column_widths(group: Group, nodes: Mapping[str, Node], size_of: Callable[[Node], Size]) -> list[int]:
    return [max(group.width, *(size_of(nodes[key])[0] for key in column)) for column in group.columns]


def place(
    group: Group, nodes: Mapping[str, Node], size_of: Callable[[Node], Size], left: int, top: int
) -> tuple[Box, dict[str, Box]]:
    """The group's own box from ``left``, ``top`` on, and those of its nodes."""
    placed: dict[str, Box] = {}
    x = left + MARGIN
    bottom = top
    for column, width in zip(group.columns, _column_widths(group, nodes, size_of), strict=True):
        y = top + GROUP_TITLE
        for key in column:
            # A folded node whose model is not there yet has a line that says so.
            line = LINE if nodes[key].models else 0
            height = line if nodes[key].folded else size_of(nodes[key])[1]
            placed[key] = (x, y + TITLE, width, size_of(nodes[key])[1])
            y += TITLE + height + GAP
        bottom = max(bottom, y - GAP)
        x += width + COLUMN_GAP
    return (left, top, x - COLUMN_GAP + MARGIN - left, bottom + MARGIN - top), placed
