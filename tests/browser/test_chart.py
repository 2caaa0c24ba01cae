"""The live chart in the training nodes, fed with the messages that the server sends, in both renderers."""

from __future__ import annotations

import json

import pytest

from fluxduel.tests.browser.editor import SCRIPTS, SITTINGS, TRAINING_NODES, Editor

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
            const { GLOSSARY } = await import(path);
            return Object.fromEntries(Object.entries(GLOSSARY).map(([name, { color }]) => [name, color]));
        }""",
        f"{SCRIPTS}/glossary.js",
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
    assert "update 12/12" in editor.panel(stage).inner_text()


def test_only_the_named_node_gets_the_curve(editor: Editor) -> None:
    first, second = editor.add("diffusion", "adversarial")
    editor.train(second, "adversarial", records("adversarial", 3))
    assert "update 3 of 3" in editor.label("adversarial")
    assert editor.label("diffusion") == "Training chart of the diffusion stage: not run yet"
    # The server's ids are strings; the editor's were numbers up to frontend 1.46.
    editor.train(int(first), "diffusion", records("diffusion", 2))
    assert "update 2 of 2" in editor.label("diffusion")


def test_text_says_where_the_run_is(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    editor.train(node, "adversarial", records("adversarial", 5), total=25)
    text = editor.panel("adversarial").inner_text()
    for part in ("running", "update 5/25", "0.50 s/step", "ETA 10 s"):
        assert part in text
    assert "adversarial loss 2.050" in editor.label("adversarial")
    assert "accuracy on real 0.3000" in editor.label("adversarial")
    assert "accuracy on fake 0.8000, pair accuracy 0.5500" in editor.label("adversarial")
    message = "The loss is not finite at step 6. Lower learning_rate."
    editor.state(node, "adversarial", "failed", message=message, records=5)
    text = editor.panel("adversarial").inner_text()
    assert "failed" in text and message in text and "ETA" not in text


def test_the_warm_up_counts_and_is_told_apart(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    facts = {"warmup": 3}
    editor.train(node, "adversarial", records("adversarial", 5), total=25, facts=facts)
    assert "update 5/25 (warm-up 3 + 22) · " in editor.panel("adversarial").inner_text()
    editor.add("diffusion")
    editor.train(node, "diffusion", records("diffusion", 5), total=25)
    assert "update 5/25 · " in editor.panel("diffusion").inner_text()


def test_a_run_that_was_finished_early_says_so_and_can_go_on(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    button = editor.panel("diffusion").get_by_role("button", name="go on to the end")
    for facts, words, can in (
        ({"early": 3}, "Finished early, at update 3 of 9. It can go on to the end.", True),
        ({"early": 3, "reused": 1}, "Reused: this run was finished early, at update 3 of 9.", True),
        ({"reused": 1}, "Reused: the same run was finished before.", False),
        ({}, "", False),
    ):
        run = f"{len(facts)}{sum(facts.values())}"
        SITTINGS[run] = max(SITTINGS.values()) + 1
        editor.train(node, "diffusion", records("diffusion", 3), total=9, run=run)
        assert not button.is_visible() and "early" not in editor.panel("diffusion").inner_text()
        editor.state(node, "diffusion", "finished", facts=facts, records=3, run=run)
        text = editor.panel("diffusion").inner_text()
        assert words in text and ("early" in text) == ("early" in facts) and ("Reused" in text) == ("reused" in facts)
        assert button.is_visible() == can


def test_the_end_leaves_no_remaining_time(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    facts = {"images": 12, "peak_memory": 11.2 * 2**30}
    editor.train(node, "diffusion", records("diffusion", 6), facts=facts)
    # The last step is there and the stage is still at work: it writes its result.
    assert "ETA" not in editor.panel("diffusion").inner_text()
    editor.state(node, "diffusion", "finished", message="Finished.", records=6)
    status = editor.panel("diffusion").inner_text()
    assert "finished · update 6/6 · 0.50 s/step · 12 images · peak 11.2 GiB" in status and "ETA" not in status


def test_warnings_stand_apart_and_notes_can_be_opened(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    editor.train(node, "adversarial", records("adversarial", 5), total=9)
    notes = [
        [0, "Measurements take 5 % of the time.", False],
        [2, "An update was left out.", True],
        [4, "Went back.", True],
        [5, "The state of step 2 is delivered.", False],
    ]
    panel = editor.panel("adversarial")
    for count in range(1, len(notes) + 1):
        # Each message brings the new ones alone.
        editor.state(node, "adversarial", notes=notes[count - 1 : count], notes_before=count - 1, records=5)
        assert f"notes {count}" in panel.inner_text()
    text = panel.inner_text()
    assert "⚠ update 4: Went back. (1 more)" in text and "left out" not in text
    # Without a score the latest note that is no warning has the line.
    assert "update 5: The state of step 2 is delivered." in text
    button = panel.get_by_role("button", name="notes 4")
    # By key, since the node may reach beyond the page.
    button.press("Enter")
    editor.next_frame()
    text = panel.inner_text()
    expected = ["update 5: The state of step 2", "⚠ update 4: Went", "⚠ update 2: An", "Measurements take"]
    places = [text.rindex(part) for part in expected]
    assert places == sorted(places) and button.get_attribute("aria-pressed") == "true"
    button.press("Enter")
    editor.next_frame()
    box = editor.chart("adversarial").bounding_box()
    assert box is not None and box["height"] > 250
    # A cancel is told before the stage ends.
    editor.state(node, "adversarial", "cancelling", notes_before=4, records=5)
    text = panel.inner_text()
    assert "cancelling · update 5/9" in text and "ETA" not in text and "running" not in text
    assert text.index("Cancelled: the stage ends once this update is done") < text.index("⚠ update 4")
    # A reason to stop comes before them.
    editor.state(node, "adversarial", "stopped", message="Cancelled after update 5.", notes_before=4, records=5)
    text = panel.inner_text()
    assert text.index("Cancelled after update 5.") < text.index("⚠ update 4")
    editor.train(node, "adversarial", [], run="second")
    text = panel.inner_text()
    assert "Went back" not in text and "notes" not in text


def test_a_long_warning_leaves_the_curves_their_room(editor: Editor) -> None:
    """Two lines of it, and the whole of it where the mouse stays; what is spare is drawn where there is room alone."""
    (node,) = editor.add("adversarial")
    editor.train(node, "adversarial", records("adversarial", 5), total=9)
    long = "Pair accuracy averages 0.544 (limit 0.55): the discriminator lags. " * 4
    editor.state(node, "adversarial", notes=[[4, long, True]], notes_before=0, records=5)
    warning = editor.panel("adversarial").get_by_text("⚠ update 4")
    box = warning.bounding_box()
    assert box is not None and box["height"] <= 31
    assert long.strip() in warning.get_attribute("title")


def scored(score: float, **more: float) -> dict[str, float]:
    return {"score": score, "diversity": 40.0, "high_frequency": 1.1, "held_out_loss": 1.5, **more}


def test_the_best_state_is_told_and_marked(editor: Editor) -> None:
    (node,) = editor.add("adversarial")
    run = records("adversarial", 8)
    for step, score in ((2, 1.2), (5, 0.78), (8, 0.9)):
        run[step - 1] |= scored(score)
    editor.train(node, "adversarial", run, facts={"best_step": 5, "best_score": 0.78})
    assert "best: update 5, score 0.78" in editor.panel("adversarial").inner_text()
    label = editor.label("adversarial")
    # Diversity is told as a share of the first one.
    assert "score 0.9000, diversity 1.000, high frequencies 1.100" in label.replace("40.00", "1.000")
    colour = colours(editor)
    for name in ("score", "high_frequency"):
        assert editor.columns("adversarial", colour[name]) > 0.4, name
    marked = editor.picture("adversarial")
    editor.train(node, "adversarial", run, run="second", facts={"best_step": 8, "best_score": 0.78})
    assert editor.picture("adversarial") != marked


def test_the_start_is_a_line(editor: Editor) -> None:
    """What the LoRA was worth before the stage is known from the measurement before the first update."""
    (node,) = editor.add("diffusion")
    common = {"node": node, "run": "first", "stage": "diffusion", "sitting": SITTINGS["first"], "total": 9}
    editor.state(node, "diffusion")
    pictures = []
    for measured in (2.0, 4.0):
        step = {"scalars": {"held_out_loss": measured}, "seconds_per_step": 0.0, "facts": {}}
        editor.send("fluxduel.step", **common, step=0, **step)
        for at in range(1, 5):
            step = {"scalars": {"diffusion_loss": 3.0, "held_out_loss": 1.0}, "seconds_per_step": 1.0, "facts": {}}
            editor.send("fluxduel.step", **common, step=at, **step)
        pictures.append(editor.picture("diffusion"))
    assert pictures[0] != pictures[1]
    assert "lowest held-out flow loss: update 1, 1" in editor.panel("diffusion").inner_text()


def test_a_new_run_clears_the_chart(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", records("diffusion", 10), run="old")
    editor.train(node, "diffusion", [], run="new")
    assert editor.columns("diffusion", colours(editor)["diffusion_loss"]) == 0
    assert editor.label("diffusion") == "Training chart of the diffusion stage: running"
    editor.train(node, "diffusion", records("diffusion", 2), run="new")
    assert "update 2 of 2" in editor.label("diffusion")


def test_a_curve_is_copied_as_a_table(editor: Editor) -> None:
    """Also where the page has no clipboard of its own, for want of https."""
    copied = editor.page.evaluate(
        """async ([copy_path, table_path]) => {
            const { copyText } = await import(copy_path);
            const { curveTable } = await import(table_path);
            const table = curveTable([{ step: 0, held_out_loss: 1.5 }, { diffusion_loss: 0.25, step: 1 }]);
            Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
            await copyText(table);
            delete navigator.clipboard;
            return table;
        }""",
        [f"{SCRIPTS}/clipboard.js", f"{SCRIPTS}/curve_table.js"],
    )
    assert copied == "step\theld_out_loss\tdiffusion_loss\n0\t1.5\t\n1\t\t0.25\n"
    editor.page.context.grant_permissions(["clipboard-read"])
    assert editor.page.evaluate("() => navigator.clipboard.readText()") == copied


def test_logarithmic_axis_by_keyboard(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    editor.train(node, "diffusion", [{"diffusion_loss": 10.0 ** (-step / 4)} for step in range(12)])
    button = editor.panel("diffusion").get_by_role("button", name="log axis")
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
    assert len(values) == len([name for name in widgets if not name.startswith("fluxduel_")])
    assert "fluxduel_chart" not in prompt[node]["inputs"] and "steps" in prompt[node]["inputs"]


def test_the_chart_fills_a_node_that_is_enlarged(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    # Other parts of the node find their places one after the other.
    editor.page.wait_for_timeout(500)
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
    # The previews and the buttons below it grow, too: a third of 120, and a drag may miss a grid line of 10.
    assert before["height"] + 25 < after["height"] < before["height"] + 135


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
    assert "update 6 of 6" in classic.label("diffusion")
    assert classic.columns("diffusion", colours(classic)["diffusion_loss"]) > 0.45
    classic.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_the_wheel_zooms_over_the_chart(editor: Editor) -> None:
    editor.add("diffusion")
    editor.chart("diffusion").hover(position={"x": 150, "y": 60})
    editor.page.mouse.wheel(0, -200)
    editor.page.wait_for_function("() => app.canvas.ds.scale > 1.01")


def test_the_right_button_opens_the_nodes_menu(editor: Editor) -> None:
    editor.add("diffusion")
    editor.chart("diffusion").click(button="right", position={"x": 150, "y": 60})
    # In LiteGraph's menu as in that of Nodes 2.0.
    editor.page.get_by_text("Bypass", exact=True).first.wait_for()
    editor.page.keyboard.press("Escape")
    editor.page.mouse.click(5, 500)


def test_the_middle_button_moves_the_view(editor: Editor) -> None:
    editor.add("diffusion")
    before = editor.page.evaluate("() => app.canvas.ds.offset[0]")
    box = editor.chart("diffusion").bounding_box()
    assert box is not None
    editor.page.mouse.move(box["x"] + 100, box["y"] + 60)
    editor.page.mouse.down(button="middle")
    editor.page.mouse.move(box["x"] + 130, box["y"] + 60, steps=4)
    editor.page.mouse.move(box["x"] + 160, box["y"] + 60, steps=4)
    editor.page.mouse.up(button="middle")
    editor.next_frame()
    assert abs(editor.page.evaluate("() => app.canvas.ds.offset[0]") - before) > 30
