"""Where the editor draws the nodes of the open graph, in pixels of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fluxduel.tests.browser.editor import Editor

Box = tuple[float, float, float, float]

# Nodes 2.0 draws elements, which are measured; the other renderer draws what the graph says, title bars above it.
_DRAWN = """() => {
    const { ds, canvas } = app.canvas;
    const at = canvas.getBoundingClientRect();
    const TITLE = LiteGraph.NODE_TITLE_HEIGHT;
    return app.graph.nodes.map(node => {
        const folded = !!node.flags?.collapsed;
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        const common = { id: String(node.id), kind: node.type, title: node.title, folded };
        if (element) {
            const box = element.getBoundingClientRect();
            const title = element.querySelector('[data-testid="node-title"]');
            const size = parseFloat(getComputedStyle(title).fontSize);
            const scale = box.width / element.offsetWidth;
            return { ...common, box: [box.left, box.top, box.right, box.bottom], text: size * scale, least: null };
        }
        const least = node.computeSize();
        const [x, y, width, height] = node.boundingRect;
        const left = at.left + (x + ds.offset[0]) * ds.scale, top = at.top + (y + ds.offset[1]) * ds.scale;
        return { ...common, box: [left, top, left + width * ds.scale, top + height * ds.scale],
            text: app.canvas.low_quality ? 0 : LiteGraph.NODE_TEXT_SIZE * ds.scale, least: [least[0], least[1]] };
    });
}"""


@dataclass(frozen=True)
class Drawn:
    """A node on the page. ``box``: left, top, right, bottom. ``text``: height of its title's letters, pixels of a line.

    ``least``: width and height in the graph's units that its contents ask for, its title bar left out; ``None`` where
    the node is an element, which is never smaller than that.
    """

    id: str
    kind: str
    title: str
    folded: bool
    box: Box
    text: float
    least: tuple[int, int] | None


def drawn(editor: Editor) -> list[Drawn]:
    """All nodes of the open graph, as they are drawn now."""
    found: list[dict[str, Any]] = editor.page.evaluate(_DRAWN)
    return [
        Drawn(**{**node, "box": tuple(node["box"]), "least": node["least"] and tuple(map(math.ceil, node["least"]))})
        for node in found
    ]


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def clashes(nodes: list[Drawn]) -> list[tuple[str, str]]:
    """Titles of the nodes that lie over each other."""
    return [(a.title, b.title) for i, a in enumerate(nodes) for b in nodes[i + 1 :] if overlap(a.box, b.box)]


def wait_until_still(editor: Editor) -> list[Drawn]:
    """The nodes once nothing of them moves any more. ``TimeoutError`` after 10 s."""
    before: list[Drawn] = []
    for _ in range(40):
        editor.page.wait_for_timeout(250)
        now = drawn(editor)
        if now == before:
            return now
        before = now
    raise TimeoutError("the nodes still move after 10 s")
