"""Run on a graph with faults: one message names them all, each node that has one is marked, and nothing is queued."""

from __future__ import annotations

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import PACK_NAME

FAULTS = {
    "FluxDuelLoadFluxLoRA": {"targets": "regex", "target_regex": "("},
    "FluxDuelLatentDiscriminator": {"taps": "d99"},
    "FluxDuelTrainAdversarialStage": {"target": "two_samplers"},
}
WORDS = ["no valid expression", "no block of this base", "few_step_phrase"]

_SET = """values => {
    for (const node of app.graph.nodes) {
        for (const [name, value] of Object.entries(values[node.type] ?? {})) {
            node.widgets.find(widget => widget.name === name).value = value;
        }
    }
}"""
# The outline of a node in the colour of errors: of its element in Nodes 2.0, drawn by the canvas else.
_MARKED = """() => app.graph.nodes.filter(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    if (element) return /(stroke-error|border-error|ring-error)/.test(element.outerHTML.slice(0, 1500));
    return Object.entries(node.strokeStyles).some(([name, style]) => /rror/.test(name) && style.call(node)?.color);
}).map(node => node.type).sort()"""


def test_a_check_that_takes_too_long_is_told_of(editor: Editor) -> None:
    editor.send("fluxduel.unchecked", parts=["Stage 2: Train LoRA with GAN (node 7): memory"])
    told = editor.page.get_by_text("Run goes on before all was checked")
    told.first.wait_for()
    assert editor.page.get_by_text("Stage 2: Train LoRA with GAN (node 7): memory").first.is_visible()


def test_three_faults_make_one_message_and_three_marks(editor: Editor) -> None:
    editor.open(editor.host.get(f"/api/workflow_templates/{PACK_NAME}/A%20first%20run%20on%20the%20tiny%20base.json"))
    editor.chart("adversarial").wait_for()
    editor.page.evaluate(_SET, FAULTS)
    before = set(editor.host.get("/history"))
    editor.page.get_by_role("button", name="Run", exact=True).first.click()
    editor.page.wait_for_function("() => app.lastNodeErrors && Object.keys(app.lastNodeErrors).length")
    told = editor.page.locator("[role=dialog]").filter(has_text=WORDS[0])
    told.wait_for()
    assert told.count() == 1
    text = told.inner_text()
    assert all(words in text for words in WORDS), text
    editor.page.keyboard.press("Escape")
    told.wait_for(state="hidden")
    assert editor.page.evaluate(_MARKED) == sorted(FAULTS)
    assert set(editor.host.get("/history")) == before and not editor.host.get("/queue")["queue_running"]
