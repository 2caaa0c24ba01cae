"""Option nodes on the page: what is folded away and shown, and graphs of version 0.1 that are opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.widgets import add_alone, pack_nodes, shown_widgets

OLD = json.loads(Path(__file__).with_name("saved_0_1.json").read_text())
MOST_WIDGETS = 8
# A default of version 0.1 that became a word for itself: 0 preview steps are 8 for every model that was known then.
SAME_BY_ANOTHER_DEFAULT = {"preview_steps": 8}


def test_no_node_shows_more_than_a_few_widgets_at_first(editor: Editor) -> None:
    counts = {}
    for type_ in pack_nodes(editor.host):
        node = add_alone(editor, type_)
        counts[type_] = len(shown_widgets(editor, node))
    assert {name: count for name, count in counts.items() if count > MOST_WIDGETS} == {}
    assert counts["FluxDuelLatentDiscriminator"] >= 7 and counts["FluxDuelMemoryOptions"] == 4


def test_the_rest_is_shown_on_request_and_after_a_reload(editor: Editor) -> None:
    node = add_alone(editor, "FluxDuelLatentDiscriminator")
    few = len(shown_widgets(editor, node))
    more = editor.page.get_by_text("more options")
    (more if more.count() else editor.page.get_by_text("Show advanced inputs")).first.click()
    editor.page.wait_for_timeout(500)
    assert len(shown_widgets(editor, node)) >= few + 15
    saved = editor.page.evaluate("() => app.graph.serialize()")
    assert len(saved["nodes"][0]["widgets_values"]) == 24
    editor.open(saved)
    editor.page.wait_for_timeout(500)
    assert len(shown_widgets(editor, node)) >= few + 15


def prompt(editor: Editor) -> dict[str, Any]:
    return editor.page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)")


def options_of(graph: dict[str, Any], stage: str) -> dict[str, Any]:
    """All options that a training node of an API graph is given, by itself or by the nodes before it."""
    (node,) = [node for node in graph.values() if node["class_type"] == stage]
    found: dict[str, Any] = {}
    while True:
        found = {**node["inputs"], **found}
        before = node["inputs"].get("options")
        if before is None:
            return {name: value for name, value in found.items() if not isinstance(value, list)}
        node = graph[before[0]]


@pytest.mark.parametrize("stage", ["FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage"])
def test_a_graph_of_the_first_version_keeps_every_value(editor: Editor, stage: str) -> None:
    editor.page.evaluate("() => app.graph.clear()")
    editor.open(json.loads(json.dumps(OLD["graph"])))
    editor.page.get_by_text("a graph of version 0.1").first.wait_for()
    got, saved = options_of(prompt(editor), stage), OLD["values"][stage]
    # What is on no option node was at its default, and is at the training node's now.
    assert {name: got[name] for name in got if name in saved} == {name: saved[name] for name in got if name in saved}
    defaults = {}
    for name in (stage, *[n for n in pack_nodes(editor.host) if n.endswith("Options")]):
        inputs = editor.host.object_info(name)["input"]
        defaults |= {key: spec[1].get("default") for part in inputs.values() if isinstance(part, dict)
                     for key, spec in part.items() if len(spec) > 1}  # fmt: skip
    left = {name: value for name, value in saved.items() if name not in got}
    assert left == {name: defaults[name] for name in left} | SAME_BY_ANOTHER_DEFAULT
    # The graph is one of today: opened again, nothing is converted.
    again = editor.page.evaluate("() => app.graph.serialize()")
    editor.open(again)
    assert options_of(prompt(editor), stage) == got


def test_a_wire_to_a_widget_that_has_moved_goes_with_it(editor: Editor) -> None:
    graph = json.loads(json.dumps(OLD["graph"]))
    (stage,) = [node for node in graph["nodes"] if node["type"] == "FluxDuelTrainDiffusionStage"]
    place = next(i for i, slot in enumerate(stage["inputs"]) if slot["name"] == "gradient_accumulation")
    link = graph["last_link_id"] + 1
    stage["inputs"][place]["link"] = link
    graph["nodes"].append(
        {
            "id": 900, "type": "PrimitiveInt", "pos": [0, -300], "size": [200, 80], "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [{"name": "INT", "type": "INT", "links": [link]}], "properties": {},
            "widgets_values": [3, "fixed"],
        }
    )  # fmt: skip
    graph["links"].append([link, 900, 0, stage["id"], place, "INT"])
    graph["last_link_id"], graph["last_node_id"] = link, 900
    editor.open(graph)
    inputs = [node["inputs"] for node in prompt(editor).values() if node["class_type"] == "FluxDuelOptimiserOptions"]
    assert [each["gradient_accumulation"] for each in inputs if isinstance(each["gradient_accumulation"], list)] == [
        ["900", 0]
    ]
