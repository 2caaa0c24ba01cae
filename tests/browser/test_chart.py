"""The live chart in the training nodes, fed with the messages that the server sends, in both renderers."""

from __future__ import annotations

import json

import pytest

from fluxduel.tests.browser.editor import SCRIPTS, TRAINING_NODES, Editor

CURVES = {
    "diffusion": ["diffusion_loss"],
    "adversarial": [
        "diffusion_loss", "adversarial_loss", "discriminator_loss", "real_accuracy", "fake_accuracy", "pair_accuracy",
    ],
}  # fmt: skip


def records(stage: str, count: int) -> list[dict[str, float]]:
    """Curves that do not cross, so that none hides another."""
    level = {"diffusion_loss": 1.0, "adversarial_loss": 2.0, "discriminator_loss": 3.0,
             "real_accuracy": 0.25, "fake_accuracy": 0.75, "pair_accuracy": 0.5}  # fmt: skip
    return [{name: level[name] + 0.05 * (step % 3) for name in CURVES[stage]} for step in range(count)]


def colours(editor: Editor) -> dict[str, str]:
    return editor.page.evaluate(
        """async path => {
            const { LOSSES_OF, ACCURACIES } = await import(path);
            return Object.fromEntries([...LOSSES_OF.adversarial, ...ACCURACIES].map(s => [s.name, s.color]));
        }""",
        f"{SCRIPTS}/series.js",
    )


@pytest.mark.parametrize("stage", ["diffusion", "adversarial"])
def test_every_curve_is_drawn(editor: Editor, stage: str) -> None:
    (node,) = editor.add(stage)
    editor.next_frame()
    colour = colours(editor)
    assert all(editor.columns(stage, colour[name]) == 0 for name in CURVES[stage])
    editor.train(node, stage, records(stage, 12))
    for name in CURVES[stage]:
        # A dashed line leaves out a part of the columns.
        assert editor.columns(stage, colour[name]) > 0.45, name
    box = editor.chart(stage).bounding_box()
    assert box is not None and box["width"] > 300 and box["height"] > 150
    assert "step 12/12" in editor.panel(stage).inner_text()


def test_only_the_named_node_gets_the_curve(editor: Editor) -> None:
    first, second = editor.add("diffusion", "adversarial")
    editor.train(second, "adversarial", records("adversarial", 3))
    assert "step 3 of 3" in editor.label("adversarial")
    assert editor.label("diffusion") == "Training chart of the diffusion stage: not run yet"
    # The server's ids are strings; the editor's were numbers up to frontend 1.46.
    editor.train(int(first), "diffusion", records("diffusion", 2))
    assert "step 2 of 2" in editor.label("diffusion")


def test_text_says_where_the_run_is(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    editor.train(node, "adversarial", records("adversarial", 5), total=25)
    text = editor.panel("adversarial").inner_text()
    for part in ("running", "step 5/25", "0.50 s/step", "10 s left"):
        assert part in text
    assert "adversarial loss 2.050" in editor.label("adversarial")
    assert "accuracy on real 0.3000" in editor.label("adversarial")
    assert "accuracy on fake 0.8000, accuracy on pairs 0.5500" in editor.label("adversarial")
    message = "The loss is not finite at step 6. Lower learning_rate."
    editor.send(
        "fluxduel.state", node=node, run="first", stage="adversarial", state="failed", message=message
    )
    text = editor.panel("adversarial").inner_text()
    assert "failed" in text and message in text and "left" not in text


def test_the_latest_notes_are_shown_while_it_runs_and_at_its_end(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    editor.train(node, "adversarial", records("adversarial", 5), total=9)
    common = {"node": node, "run": "first", "stage": "adversarial"}
    notes = [[2, "An update was left out."], [3, "The weight was halved."], [4, "Went back."], [5, "Stopped early."]]
    for count in range(1, len(notes) + 1):
        editor.send("fluxduel.state", **common, state="running", message="", notes=notes[:count])
        text = editor.panel("adversarial").inner_text()
        shown = [f"Step {step}: {said}" for step, said in notes[max(0, count - 3) : count]]
        assert "\n".join(reversed(shown)) in text
        assert "running" in text and "step 5/9" in text
    assert notes[0][1] not in text
    assert editor.columns("adversarial", colours(editor)["diffusion_loss"]) > 0.45
    box = editor.chart("adversarial").bounding_box()
    assert box is not None and box["height"] > 150

    message = "Finished step 5 of 9, with 4 notes."
    editor.send("fluxduel.state", **common, state="finished", message=message, notes=notes)
    text = editor.panel("adversarial").inner_text()
    assert "Step 5: Stopped early.\nStep 4: Went back." in text and "with 4 notes" not in text
    # A reason to stop comes before them, where it is seen without scrolling.
    editor.send("fluxduel.state", **common, state="stopped", message="Cancelled after step 5.", notes=notes)
    assert "Cancelled after step 5.\nStep 5: Stopped early." in editor.panel("adversarial").inner_text()
    editor.train(node, "adversarial", [], run="second")
    assert "Step 5" not in editor.panel("adversarial").inner_text()


def test_a_new_run_clears_the_chart(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", records("diffusion", 10), run="old")
    editor.train(node, "diffusion", [], run="new")
    assert editor.columns("diffusion", colours(editor)["diffusion_loss"]) == 0
    assert editor.label("diffusion") == "Training chart of the diffusion stage: running"
    editor.train(node, "diffusion", records("diffusion", 2), run="new")
    assert "step 2 of 2" in editor.label("diffusion")


def test_logarithmic_axis_by_keyboard(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", [{"diffusion_loss": 10.0 ** (-step / 4)} for step in range(12)])
    button = editor.panel("diffusion").get_by_role("button", name="log")
    before = editor.picture("diffusion")
    button.focus()
    editor.page.keyboard.press("Enter")
    editor.next_frame()
    assert button.get_attribute("aria-pressed") == "true"
    logarithmic = editor.picture("diffusion")
    assert logarithmic != before
    button.click()
    editor.next_frame()
    assert button.get_attribute("aria-pressed") == "false"
    editor.page.mouse.move(5, 500)
    assert editor.picture("diffusion") == before


def test_values_of_a_step_can_be_read_off(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", records("diffusion", 8))
    chart = editor.chart("diffusion")
    editor.page.mouse.move(5, 500)
    plain = editor.picture("diffusion")
    chart.hover(position={"x": 200, "y": 60})
    hovered = editor.picture("diffusion")
    assert hovered != plain
    editor.page.mouse.move(5, 500)
    assert editor.picture("diffusion") == plain
    chart.focus()
    editor.page.keyboard.press("ArrowLeft")
    last = editor.picture("diffusion")
    editor.page.keyboard.press("ArrowLeft")
    assert len({plain, last, editor.picture("diffusion")}) == 3


def test_the_chart_is_in_neither_the_workflow_nor_the_prompt(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", records("diffusion", 4))
    saved = editor.page.evaluate("() => app.graph.serialize()")
    prompt = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    widgets = editor.page.evaluate("() => app.graph.nodes[0].widgets.map(widget => widget.name)")
    assert "fluxduel_chart" in widgets
    assert "chart" not in json.dumps(saved).lower().replace(TRAINING_NODES["diffusion"].lower(), "")
    values = saved["nodes"][0]["widgets_values"]
    assert len(values) == len(widgets) - 1
    assert "fluxduel_chart" not in prompt[node]["inputs"] and "steps" in prompt[node]["inputs"]


def test_the_chart_fills_a_node_that_is_enlarged(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    before = editor.chart("diffusion").bounding_box()
    x, y = editor.corner(node)
    editor.page.mouse.move(x, y)
    editor.page.mouse.down()
    editor.page.mouse.move(x + 75, y + 60, steps=4)
    editor.page.mouse.move(x + 150, y + 120, steps=4)
    editor.page.mouse.up()
    editor.page.wait_for_timeout(300)
    after = editor.chart("diffusion").bounding_box()
    assert before is not None and after is not None
    assert after["width"] == pytest.approx(before["width"] + 150, abs=15)
    assert after["height"] == pytest.approx(before["height"] + 120, abs=15)


def test_a_removed_node_takes_its_chart_along(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.page.evaluate("() => app.graph.remove(app.graph.nodes[0])")
    editor.chart("diffusion").wait_for(state="detached")
    editor.train(node, "diffusion", records("diffusion", 2))
    (node,) = editor.add("diffusion")
    assert editor.label("diffusion") == "Training chart of the diffusion stage: not run yet"


def test_a_node_in_a_subgraph_gets_its_curve(classic: Editor) -> None:
    classic.add("diffusion")
    node = classic.page.evaluate(
        """async path => {
            const { executionIds } = await import(path);
            const { subgraph } = app.canvas.graph.convertToSubgraph(new Set([app.graph.nodes[0]]));
            return executionIds(app.rootGraph, subgraph.nodes[0])[0];
        }""",
        f"{SCRIPTS}/node_lookup.js",
    )
    assert ":" in node
    classic.train(node, "diffusion", records("diffusion", 6))
    classic.page.evaluate("() => app.canvas.setGraph(app.rootGraph.nodes[0].subgraph)")
    classic.chart("diffusion").wait_for()
    classic.next_frame()
    assert "step 6 of 6" in classic.label("diffusion")
    assert classic.columns("diffusion", colours(classic)["diffusion_loss"]) > 0.45
    classic.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_the_wheel_zooms_over_the_chart(editor: Editor) -> None:
    editor.add("diffusion")
    editor.chart("diffusion").hover(position={"x": 150, "y": 60})
    editor.page.mouse.wheel(0, -200)
    editor.page.wait_for_function("() => app.canvas.ds.scale > 1.01")
