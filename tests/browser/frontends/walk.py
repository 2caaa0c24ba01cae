"""What a user does in the editor and looks at, in every frontend and both renderers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from playwright.sync_api import Locator

from fluxduel.tests.browser.drawn import Box, drawn
from fluxduel.tests.browser.editor import SCRIPTS, TRAINING_NODES, Editor
from fluxduel.tests.browser.test_two_stages import WORKFLOW

TINY = unquote(WORKFLOW)

_SHOWN = """async ([path, type]) => {
    const { shownRecord } = await import(path);
    const node = app.graph.nodes.find(node => node.type === type);
    const record = node && shownRecord(node);
    if (!record) return null;
    const { run, state, message, step, total, steps, whole } = record;
    return { run, state, message, step, total, steps, whole };
}"""
# Where a number of a node is drawn on the canvas, in pixels of the page.
_PLACE = """([type, name]) => {
    const node = app.graph.nodes.find(node => node.type === type);
    const widget = node.widgets.find(widget => widget.name === name);
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + widget.last_y + LiteGraph.NODE_WIDGET_HEIGHT / 2;
    return [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
}"""
_VALUE = """([type, name]) => app.graph.nodes.find(node => node.type === type)
    .widgets.find(widget => widget.name === name).value"""


def until(editor: Editor, met: Callable[[], Any], seconds: float = 90) -> Any:
    """What ``met`` gives, once that is something. ``TimeoutError`` with the host's last words where that never is."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        if time.monotonic() > deadline:
            raise TimeoutError(editor.host.log_tail())
        editor.page.wait_for_timeout(50)
    return found


def curve(editor: Editor, stage: str) -> dict[str, Any]:
    """What the chart of a stage holds: run, state, message, step, total, steps, and whether its past is whole."""
    return editor.page.evaluate(_SHOWN, [f"{SCRIPTS}/training_chart.js", TRAINING_NODES[stage]]) or {"steps": []}


def press_run(editor: Editor) -> Callable[[], dict[str, Any] | None]:
    """Press Run; a function that gives the host's account of that run, once it is over."""
    before = set(editor.host.get("/history"))
    editor.press_run()

    def account() -> dict[str, Any] | None:
        new = [entry for key, entry in editor.host.get("/history").items() if key not in before]
        assert len(new) <= 1, "one press queued several runs"
        return new[0] if new else None

    return account


def cached(account: dict[str, Any]) -> set[str]:
    """The nodes that the host did not run again."""
    assert account["status"]["status_str"] == "success", json.dumps(account["status"]["messages"][-1])[:2000]
    return set(next(data["nodes"] for kind, data in account["status"]["messages"] if kind == "execution_cached"))


def node_id(editor: Editor, kind: str) -> str:
    return next(node.id for node in drawn(editor) if node.kind == kind)


def box(editor: Editor, kind: str) -> Box:
    """Where a node is drawn: left, top, right, bottom."""
    return next(node.box for node in drawn(editor) if node.kind == kind)


def title(editor: Editor, kind: str) -> tuple[float, float]:
    """A place on a node's title, where it is clicked and dragged."""
    left, top, right, _ = box(editor, kind)
    scale = editor.page.evaluate("() => app.canvas.ds.scale")
    return (left + right) / 2, top + 12 * scale


def value(editor: Editor, kind: str, name: str) -> Any:
    return editor.page.evaluate(_VALUE, [kind, name])


def type_number(editor: Editor, kind: str, name: str, number: float) -> None:
    """Type a number into a widget: into its field in Nodes 2.0, else into the box that a double click opens."""
    element = editor.page.locator(f'[data-node-id="{node_id(editor, kind)}"]')
    if element.count():
        rows = element.locator('[data-testid="node-widget"], .lg-node-widget')
        row = rows.filter(has=editor.page.get_by_text(name, exact=True))
        field = row.first.locator("input").first
        # Newer ones lay over it what a drag changes the number by; a click on that edits the field.
        field.click(force=True)
    else:
        editor.page.mouse.dblclick(*editor.page.evaluate(_PLACE, [kind, name]))
        field = editor.page.locator(".graphdialog input.value")
    # By keys: frontend 1.32's field in Nodes 2.0 takes no others.
    field.press("Control+a")
    editor.page.keyboard.type(str(number))
    field.press("Enter")
    until(editor, lambda: value(editor, kind, name) == number, 10)


def finish_button(editor: Editor) -> Locator:
    toolbar = editor.page.get_by_role("toolbar", name="The diffusion stage that is training")
    return toolbar.get_by_role("button").filter(has_text="finish")
