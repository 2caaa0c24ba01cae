"""Both stages as one node: from the node library into a graph, run by the Run button, looked at from inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator

from fluxduel.demo.templates.blueprint import TWO_STAGES
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.test_two_stages import WORKFLOW, wait_for_success
from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost

# Where to leave a picture of what was seen, for people.
SHOTS = os.environ.get("FLUXDUEL_SHOTS")
LONG = 2000
INSIDE = {
    "FluxDuelTrainDiffusionStage": {"steps": LONG, "batch_size": 1, "preview_every": 0},
    "FluxDuelTrainAdversarialStage": {"steps": 4, "target_steps": 1, "batch_size": 1, "preview_every": 2},
    "FluxDuelOptimiserOptions": {"gradient_accumulation": 1},
}

# In place of the template's stages, the node of the blueprint; what it gives is saved.
_CONNECT = """name => {
    const of = type => app.graph.nodes.filter(node => node.type === type);
    const [stages] = app.graph.nodes.filter(node => node.title === name);
    const gone = /Stage$|Options$|Discriminator$|CompareFluxLoRAs$/;
    for (const node of app.graph.nodes.filter(node => gone.test(node.type))) app.graph.remove(node);
    of("FluxDuelLoadFluxLoRA")[0].connect(0, stages, 0);
    of("FluxDuelEncodeRealLatents")[0].connect(0, stages, 1);
    of("FluxDuelSaveLoRA").forEach((save, output) => stages.connect(output, save, 0));
    return String(stages.id);
}"""
_SET = """([id, values]) => {
    for (const node of app.graph.getNodeById(id).subgraph.nodes) {
        for (const [name, value] of Object.entries(values[node.type] ?? {})) {
            node.widgets.find(widget => widget.name === name).value = value;
        }
    }
}"""
_OPEN = """id => {
    app.canvas.setGraph(app.rootGraph.getNodeById(id).subgraph);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [300, 100];
    app.canvas.setDirty(true, true);
}"""
_LIBRARY = "() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.node-library')"


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def dropped(request: pytest.FixtureRequest, browser: Browser, comfy_host: ComfyHost) -> Iterator[tuple[Editor, str]]:
    """The editor with the blueprint in the tiny graph, in one renderer, then in the other, and the new node's id."""
    editor = Editor(browser, comfy_host, nodes2=request.param == "nodes2")
    editor.open(comfy_host.get(f"/api/workflow_templates/{PACK_NAME}/{WORKFLOW}.json"))
    editor.chart("adversarial").wait_for()
    yield editor, place(editor)
    editor.page.close()


def place(editor: Editor) -> str:
    """Take the blueprint from the node library, as a user does, and connect it."""
    page = editor.page
    page.evaluate(_LIBRARY)
    page.get_by_placeholder("Search Nodes").first.fill(TWO_STAGES.name)
    page.get_by_text(TWO_STAGES.name).first.click()
    page.wait_for_function("name => app.graph.nodes.some(node => node.title === name)", arg=TWO_STAGES.name)
    page.evaluate(_LIBRARY)
    return page.evaluate(_CONNECT, TWO_STAGES.name)


def set_inside(editor: Editor, node: str, values: dict[str, dict[str, Any]]) -> None:
    editor.page.evaluate(_SET, [node, values])


def go_inside(editor: Editor, node: str) -> None:
    editor.page.evaluate(_OPEN, node)
    editor.chart("diffusion").wait_for()
    editor.chart("adversarial").wait_for()


def press_run(editor: Editor) -> None:
    editor.page.get_by_role("button", name="Run", exact=True).first.click()


def button(editor: Editor, text: str) -> Locator:
    toolbar = editor.page.get_by_role("toolbar", name="The diffusion stage that is training")
    return toolbar.get_by_role("button", name=text, exact=True)


def wait_until_finished(editor: Editor) -> None:
    editor.page.wait_for_function("() => document.querySelectorAll('canvas[aria-label*=\"finished\"]').length === 2")


def test_run_tells_of_a_fault_inside(dropped: tuple[Editor, str]) -> None:
    """Frontend 1.32 draws no mark on a node inside a subgraph, whatever pack it is of; it tells what is wrong."""
    editor, node = dropped
    set_inside(editor, node, INSIDE | {"FluxDuelLatentDiscriminator": {"taps": "d99"}})
    press_run(editor)
    told = editor.page.locator("[role=dialog]").filter(has_text="no block of this base")
    told.wait_for()
    assert "FluxDuelLatentDiscriminator" in told.inner_text()
    editor.page.keyboard.press("Escape")
    told.wait_for(state="hidden")
    faulty = editor.page.evaluate("() => Object.entries(app.lastNodeErrors).map(([id, told]) => [id, told.class_type])")
    (inside,) = [id_ for id_, kind in faulty if kind == "FluxDuelLatentDiscriminator"]
    assert inside.startswith(f"{node}:")
    set_inside(editor, node, {"FluxDuelLatentDiscriminator": {"taps": ""}})


def test_charts_buttons_and_previews_work_inside(dropped: tuple[Editor, str], comfy_host: ComfyHost) -> None:
    editor, node = dropped
    page = editor.page
    # A run of its own for each renderer.
    nodes2 = page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    stage = INSIDE["FluxDuelTrainDiffusionStage"] | {"seed": int(nodes2)}
    set_inside(editor, node, INSIDE | {"FluxDuelTrainDiffusionStage": stage})
    go_inside(editor, node)
    before = set(comfy_host.get("/history"))
    press_run(editor)

    button(editor, "preview now").wait_for(timeout=60_000)
    page.locator('canvas[aria-label*="of the diffusion stage"][aria-label*="update"]').wait_for()
    button(editor, "preview now").click()
    page.get_by_text("A preview is sampled after this update.").wait_for()
    page.locator("figure canvas").first.wait_for()
    button(editor, "finish now").click()
    button(editor, "sure? finish").click()
    wait_for_success(comfy_host, before)
    wait_until_finished(editor)
    labels = [editor.label(stage) for stage in ("diffusion", "adversarial")]
    assert page.get_by_label("Update of the previews").count() == 2
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"blueprint-{'nodes2' if nodes2 else 'classic'}.png")

    # Who opens the graph later, and then the subgraph, sees the same.
    saved = page.evaluate("() => app.rootGraph.serialize()")
    editor.reload()
    editor.open(saved)
    go_inside(editor, node)
    wait_until_finished(editor)
    assert [editor.label(stage) for stage in ("diffusion", "adversarial")] == labels
    page.locator("figure canvas").first.wait_for()
    assert page.get_by_label("Update of the previews").count() == 2
    assert not editor.problems
