"""The nodes' sizes as the editor draws them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from playwright.sync_api import sync_playwright

from fluxduel.tests.browser.conftest import ARGUMENTS
from fluxduel.tests.browser.drawn import drawn
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import ComfyHost

from .layout import TITLE, Size
from .sizes import larger


def measure(host: ComfyHost, workflows: Mapping[str, Mapping[str, Any]]) -> dict[str, Size]:
    """Least width and height of each kind of node in these workflows, in both renderers."""
    found: dict[str, Size] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=ARGUMENTS)
        for nodes2 in (False, True):
            editor = Editor(browser, host, nodes2=nodes2, size=(1600, 1000))
            for workflow in workflows.values():
                editor.open(_as_small_as_can_be(workflow))
                editor.page.wait_for_timeout(1500)
                widths = {str(node["id"]): node["size"][0] for node in workflow["nodes"]}
                for node in drawn(editor):
                    if node.kind == "MarkdownNote":
                        continue
                    left, top, right, bottom = node.box
                    # Frontends draw Nodes 2.0 larger than the graph's units, each in its own way.
                    unit = (right - left) / widths[node.id]
                    least = node.least or (0, math.ceil((bottom - top) / unit) - TITLE)
                    found = larger(found, {node.kind: least})
            editor.page.close()
        browser.close()
    return found


def _as_small_as_can_be(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow with nodes that are no larger than what is in them."""
    nodes = [node | {"size": [node["size"][0], 10], "flags": {}} for node in workflow["nodes"]]
    return {**workflow, "nodes": nodes}
