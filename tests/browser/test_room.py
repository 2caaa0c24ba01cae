"""A run makes no node larger: what is drawn, shown and said has its room before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fluxduel.tests.browser.drawn import Drawn, clashes, drawn, wait_until_still
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.test_templates import WINDOW
from fluxduel.tests.browser.test_two_stages import WORKFLOW, wait_for_success
from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost

VALUES: dict[str, dict[str, Any]] = {
    "FluxDuelTrainDiffusionStage": {"steps": 4, "batch_size": 1, "preview_every": 2},
    "FluxDuelTrainAdversarialStage": {"steps": 4, "batch_size": 1, "preview_every": 2},
    "FluxDuelAdversarialOptions": {"discriminator_warmup": 2},
    "FluxDuelWatchOptions": {"validate_every": 2},
    "FluxDuelCompareFluxLoRAs": {"step_counts": "1", "seeds": "0"},
}
SHOWING = {"fluxduel_chart", "fluxduel_previews", "fluxduel_wipe", "fluxduel_text", "fluxduel_dataset"}


@pytest.fixture(scope="module")
def sizes(editor: Editor, comfy_host: ComfyHost) -> Iterator[tuple[list[Drawn], list[Drawn]]]:
    """The nodes of the tiny template before a run of it, and after."""
    editor.page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
    graph = comfy_host.get(f"/api/workflow_templates/{PACK_NAME}/{WORKFLOW}.json")
    editor.page.evaluate("graph => app.loadGraphData(graph, true, true, 'room', { openSource: 'template' })", graph)
    editor.chart("adversarial").wait_for()
    nodes2 = editor.page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    # Of the same graph the host would run nothing again.
    seeds = {"FluxDuelTrainDiffusionStage": {"seed": 60 + nodes2}}
    editor.set_widgets(VALUES)
    editor.set_widgets(seeds)
    before = wait_until_still(editor)
    runs = set(comfy_host.get("/history"))
    editor.press_run()
    wait_for_success(comfy_host, runs)
    editor.page.get_by_text("Saved ").first.wait_for()
    editor.page.wait_for_function("() => [...document.querySelectorAll('figure canvas')].length >= 4")
    yield before, wait_until_still(editor)


def test_no_node_grows(sizes: tuple[list[Drawn], list[Drawn]]) -> None:
    before, after = sizes
    assert len(before) > 10
    assert {node.title: node.box for node in after} == {
        node.title: pytest.approx(node.box, abs=0.5) for node in before
    }


def test_no_node_lies_over_another(sizes: tuple[list[Drawn], list[Drawn]]) -> None:
    assert clashes(sizes[1]) == []


def test_everything_is_inside_its_node(editor: Editor, sizes: tuple[list[Drawn], list[Drawn]]) -> None:
    """What the pack draws in a node ends above the node's lower edge."""
    boxes = {node.id: node.box for node in drawn(editor)}
    ends = editor.page.evaluate(
        """() => app.graph.nodes.filter(node => !node.flags?.collapsed).flatMap(node => (node.widgets ?? [])
            .filter(widget => widget.name.startsWith("fluxduel_") && widget.element?.isConnected)
            .map(widget => [String(node.id), widget.name, widget.element.getBoundingClientRect().bottom]))"""
    )
    assert {name for _, name, _ in ends} >= SHOWING
    assert [(name, end, boxes[node]) for node, name, end in ends if end > boxes[node][3] + 0.5] == []
