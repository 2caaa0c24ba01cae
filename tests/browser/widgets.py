"""The settings that a node shows as it is added to a graph."""

from __future__ import annotations

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import ComfyHost

_ADD = """async type => {
    app.graph.clear();
    await new Promise(done => setTimeout(done, 200));
    const node = LiteGraph.createNode(type);
    node.pos = [120, 80];
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    await new Promise(done => setTimeout(done, 500));
    return String(node.id);
}"""
# Settings as a user sees them: rows in Nodes 2.0, widgets that the canvas draws else. What only shows is none.
_SHOWN = """id => {
    const node = app.graph.getNodeById(id);
    const element = document.querySelector(`[data-node-id="${id}"]`);
    const drawn = part => part?.querySelector?.("canvas, img");
    if (!element) {
        const shown = (node.widgets ?? []).filter(w => node.isWidgetVisible(w) && !drawn(w.element)).map(w => w.name);
        return shown.filter(name => !/^fluxduel_(text|previews|dataset|wipe)$/.test(name));
    }
    const rows = element.querySelectorAll('[data-testid="node-widget"], .lg-node-widget');
    return [...rows].filter(row => row.offsetHeight > 0 && !drawn(row)).map(row => row.innerText.split("\\n")[0]);
}"""


def pack_nodes(host: ComfyHost) -> list[str]:
    """The types of this pack's nodes."""
    return sorted(name for name in host.object_info() if name.startswith("FluxDuel"))


def add_alone(editor: Editor, kind: str) -> str:
    """Empty the graph and add one node; its id."""
    return editor.page.evaluate(_ADD, kind)


def shown_widgets(editor: Editor, node: str) -> list[str]:
    """The settings of a node that are visible."""
    return editor.page.evaluate(_SHOWN, node)
