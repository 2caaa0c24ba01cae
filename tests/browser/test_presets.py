"""Presets of the training nodes: what they set, where it is seen, and what they cannot reach."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fluxduel.tests.browser.editor import SCRIPTS, Editor

STAGES = {"diffusion": "FluxDuelTrainDiffusionStage", "adversarial": "FluxDuelTrainAdversarialStage"}
_GRAPH = """async withData => {
    app.graph.clear();
    await new Promise(done => setTimeout(done, 200));
    const make = (type, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 80];
        app.graph.add(node);
        return node;
    };
    const data = withData ? make("FluxDuelEncodeRealLatents", 80) : null;
    const stage = make("FluxDuelTrainAdversarialStage", 900);
    data?.connect(0, stage, stage.inputs.findIndex(slot => slot.name === "real_latents"));
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [0, 40];
    app.canvas.setDirty(true, true);
    await new Promise(done => setTimeout(done, 500));
}"""


def graph(editor: Editor, with_data: bool = True) -> None:
    editor.page.evaluate(_GRAPH, with_data)


def choose(editor: Editor, name: str) -> None:
    editor.page.locator('select[aria-label="Presets"]').first.select_option(label=name)
    editor.next_frame()


def values(editor: Editor) -> dict[str, dict[str, Any]]:
    """Widgets by name, by type of node."""
    return editor.page.evaluate(
        """() => Object.fromEntries(app.graph.nodes.map(node =>
            [node.type, Object.fromEntries(node.widgets.map(widget => [widget.name, widget.value]))]))"""
    )


def chain(editor: Editor) -> list[str]:
    """The option nodes before the training node, the nearest first."""
    return editor.page.evaluate(
        """() => {
            const found = [];
            let node = app.graph.nodes.find(node => node.type === "FluxDuelTrainAdversarialStage");
            while (node) {
                node = node.getInputNode(node.inputs.findIndex(slot => slot.name === "options"));
                if (node) found.push(node.type);
            }
            return found;
        }"""
    )


def test_every_preset_sets_what_there_is(editor: Editor) -> None:
    """Each value of each preset is one that the host takes for that widget."""
    groups = editor.page.evaluate(
        f"async () => (await import('{SCRIPTS}/preset_values.js')).GROUPS.map(group => group.presets)"
    )
    presets = [preset for group in groups for preset in group]
    assert len(presets) == 9 and all(len(preset["about"]) > 15 for preset in presets)
    for preset in presets:
        for stage in STAGES:
            for node, wanted in preset.get(stage, {}).items():
                inputs = editor.host.object_info(node)["input"]
                declared = {**inputs.get("required", {}), **inputs.get("optional", {})}
                for name, value in wanted.items():
                    kind, options = declared[name]
                    choices = kind if isinstance(kind, list) else options.get("options")
                    if choices:
                        assert value in choices, (preset["name"], node, name)
                    elif isinstance(value, str):
                        assert kind == "STRING"
                    else:
                        assert options["min"] <= value <= options["max"], (preset["name"], node, name)


def test_a_preset_sets_widgets_and_adds_the_options_it_needs(editor: Editor) -> None:
    graph(editor)
    choose(editor, "style")
    found = values(editor)
    told = editor.page.get_by_label("Presets").first
    assert re.fullmatch(r"style: \d changed", told.evaluate("menu => menu.selectedOptions[0].text"))
    assert "adversarial_weight 3" in (told.get_attribute("title") or "")
    # Nothing lies over Run.
    assert editor.page.get_by_text("Preset style").count() == 0
    assert found["FluxDuelTrainAdversarialStage"]["adversarial_weight"] == 3
    assert found["FluxDuelAdversarialOptions"]["anchor"] == "start" and found["FluxDuelNoiseOptions"]["guidance"] == 3.5
    assert sorted(chain(editor)) == ["FluxDuelAdversarialOptions", "FluxDuelNoiseOptions"]
    # A second one sets the same nodes, and adds none.
    choose(editor, "texture")
    found = values(editor)
    assert found["FluxDuelAdversarialOptions"]["anchor"] == "pictures"
    assert len(chain(editor)) == 2
    overlapping = editor.page.evaluate(
        """() => app.graph.nodes.some((a, i) => app.graph.nodes.slice(i + 1).some(b =>
            a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0] &&
            a.pos[1] - 30 < b.pos[1] + b.size[1] && b.pos[1] - 30 < a.pos[1] + a.size[1]))"""
    )
    assert not overlapping


@pytest.mark.parametrize("own", ["", "my phrase"])
def test_a_phrase_of_ones_own_stays(editor: Editor, own: str) -> None:
    graph(editor)
    editor.page.evaluate(
        """own => {
            const data = app.graph.nodes.find(node => node.type === "FluxDuelEncodeRealLatents");
            data.widgets.find(widget => widget.name === "few_step_phrase").value = own;
        }""",
        own,
    )
    choose(editor, "both")
    found = values(editor)
    assert found["FluxDuelTrainAdversarialStage"]["target"] == "two_samplers"
    assert found["FluxDuelEncodeRealLatents"]["few_step_phrase"] == (own or "quick draft")
    # Which two samplers refuse to train with.
    assert found["FluxDuelJudgedSampleOptions"]["practice_share"] == 0


def test_what_cannot_be_reached_is_told(editor: Editor) -> None:
    graph(editor, with_data=False)
    choose(editor, "12 GB")
    assert editor.page.get_by_text("to be set by hand: resolution 768").first.is_visible()
    assert values(editor)["FluxDuelOptimiserOptions"]["gradient_accumulation"] == 4
