"""The buttons of a training node in the page: there while it trains, pressed with the mouse and with the keyboard."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import Locator

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.test_resumed_run import graph_of, records
from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.test_run_requests import LONG, until
from fluxduel.tests.host.two_stage_graph import STAGE_1, training_graph, write_pictures

PICTURES = "buttons-test"
# Where to leave pictures of what was seen, for people.
SHOTS = os.environ.get("FLUXDUEL_SHOTS")


def toolbar(editor: Editor) -> Locator:
    return editor.page.get_by_role("toolbar", name="The diffusion stage that is training")


def button(editor: Editor, text: str) -> Locator:
    return toolbar(editor).get_by_role("button", name=text, exact=True)


def say(editor: Editor, text: str) -> None:
    """Wait until the row says ``text``."""
    toolbar(editor).get_by_role("status").filter(has_text=text).wait_for()


def test_a_run_is_asked_by_its_buttons(editor: Editor, comfy_host: ComfyHost) -> None:
    folder = comfy_host.base / "input" / PICTURES
    if not folder.exists():
        write_pictures(folder)
    (node,) = editor.add("diffusion")
    assert toolbar(editor).count() == 0, "before it trains there is nothing to ask"
    # A run of its own for each renderer.
    seed = 41 + len(list((comfy_host.base / "output" / "fluxduel").glob("*")))
    stage = {"steps": LONG, "checkpoint_every": 0, "preview_every": 0, "preview_steps": 1}
    prompt = comfy_host.queue(graph_of(folder, node, seed=seed, **stage))
    records(comfy_host, node, 2)
    toolbar(editor).wait_for()
    # It is one line, in the node, in both renderers; a reload shows it again.
    names = ("finish now", "checkpoint now", "preview now", "copy path")
    boxes = [button(editor, text).bounding_box() for text in names]
    assert all(box is not None and box["height"] >= 14 for box in boxes) and len({box["y"] for box in boxes}) == 1

    (run,) = comfy_host.get("/fluxduel/runs")["runs"]
    path = comfy_host.base / "output" / "fluxduel" / run["run"]
    editor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button(editor, "copy path").click()
    say(editor, f"Copied: {path}")
    assert editor.page.evaluate("() => navigator.clipboard.readText()") == str(path)
    if SHOTS:
        renderer = "nodes2" if editor.page.locator(f'[data-node-id="{node}"]').count() else "classic"
        editor.screenshot(Path(SHOTS) / f"buttons-{renderer}.png", TRAINING_NODES["diffusion"])

    button(editor, "checkpoint now").focus()
    editor.page.keyboard.press("Enter")
    say(editor, "A checkpoint is written after this update.")
    until(comfy_host, lambda: list(path.glob("checkpoints/step-*")))
    editor.page.keyboard.press("Tab")
    editor.page.keyboard.press("Space")
    say(editor, "A preview is sampled after this update.")
    until(comfy_host, lambda: list(path.glob("previews/step-*.png")))

    # Once is not enough to end it, and it is forgotten after a while.
    button(editor, "finish now").click()
    button(editor, "sure? finish").wait_for()
    button(editor, "finish now").wait_for(timeout=8000)
    assert comfy_host.get(f"/fluxduel/history?node={node}")["state"] == "running"
    button(editor, "finish now").click()
    button(editor, "sure? finish").click()
    assert failure(comfy_host.wait(prompt)) is None
    toolbar(editor).wait_for(state="detached")
    told = comfy_host.get(f"/fluxduel/history?node={node}")
    assert told["message"].startswith("Finished early, as asked, at update ")
    # The path stays, and is the one thing to ask for.
    editor.page.evaluate("() => navigator.clipboard.writeText('')")
    editor.panel("diffusion").get_by_role("button", name="copy path").press("Enter")
    editor.panel("diffusion").get_by_role("button", name="copied").wait_for()
    assert editor.page.evaluate("() => navigator.clipboard.readText()") == str(path)


def test_a_run_that_was_finished_early_goes_on_by_its_button(classic: Editor, comfy_host: ComfyHost) -> None:
    """In the graph that the page has queued, whose result the host still has."""
    folder = comfy_host.base / "input" / PICTURES
    if not folder.exists():
        write_pictures(folder)
    graph = training_graph(PICTURES, validate_every=0, batch_size=1, steps=300, seed=81, checkpoint_every=0)
    classic.page.evaluate("graph => app.loadApiJson(graph, 'go on')", graph)
    classic.chart("diffusion").wait_for()
    node = STAGE_1
    classic.page.evaluate("() => app.queuePrompt(0)")
    records(comfy_host, node, 3)
    toolbar(classic).wait_for()
    button(classic, "finish now").press("Enter")
    button(classic, "sure? finish").press("Enter")
    toolbar(classic).wait_for(state="detached")
    go_on = classic.panel("diffusion").get_by_role("button", name="go on to the end")
    go_on.wait_for()
    early = comfy_host.get(f"/fluxduel/history?node={node}")["facts"]["early"]
    assert f"Finished early, at update {early} of 300." in classic.panel("diffusion").inner_text()
    go_on.press("Enter")
    classic.panel("diffusion").get_by_text("finished · update 300/300").wait_for(timeout=90_000)
    told = comfy_host.get(f"/fluxduel/history?node={node}")
    assert [record["step"] for record in told["records"]][-300:] == list(range(1, 301)) and early < 300
    assert not go_on.is_visible()


def test_another_page_shows_the_buttons_of_what_is_going_on(classic: Editor, comfy_host: ComfyHost) -> None:
    """One that was not there when it began. What is asked in vain it says."""
    folder = comfy_host.base / "input" / PICTURES
    if not folder.exists():
        write_pictures(folder)
    (node,) = classic.add("diffusion")
    graph = classic.page.evaluate("() => app.graph.serialize()")
    prompt = comfy_host.queue(graph_of(folder, node, steps=LONG, seed=71, checkpoint_every=0, preview_every=0))
    records(comfy_host, node, 2)
    toolbar(classic).wait_for()
    classic.page.evaluate("() => app.graph.clear()")
    assert toolbar(classic).count() == 0
    classic.open(graph)
    toolbar(classic).wait_for()
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt)).startswith("interrupted")
    toolbar(classic).wait_for(state="detached")
    # As when the page has not heard yet that it is over.
    classic.state(node, "diffusion", run="gone")
    button(classic, "preview now").click()
    say(classic, "No run 'gone' is going on")


def test_what_was_announced_goes_once_it_is_there(classic: Editor, comfy_host: ComfyHost) -> None:
    """Where an update takes seconds: the words do not stay for the updates after it."""
    folder = comfy_host.base / "input" / PICTURES
    if not folder.exists():
        write_pictures(folder)
    (node,) = classic.add("diffusion")
    slow = {"steps": LONG, "gradient_accumulation": 100, "checkpoint_every": 0, "preview_every": 0, "preview_steps": 1}
    prompt = comfy_host.queue(graph_of(folder, node, seed=91, **slow))
    toolbar(classic).wait_for()
    button(classic, "preview now").press("Enter")
    say(classic, "A preview is sampled after this update.")
    (run,) = comfy_host.get("/fluxduel/runs")["runs"]
    previews = comfy_host.base / "output" / "fluxduel" / run["run"] / "previews"
    (drawn,) = until(comfy_host, lambda: list(previews.glob("step-*.png")))
    toolbar(classic).get_by_text("A preview is sampled").wait_for(state="detached")
    reached = records(comfy_host, node, 1)[-1]["step"]
    assert reached <= int(drawn.stem.removeprefix("step-")) + 1, "it stayed for more updates"
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt)).startswith("interrupted")


def test_a_cancel_is_told_while_the_update_at_hand_goes_on(editor: Editor, comfy_host: ComfyHost) -> None:
    folder = comfy_host.base / "input" / PICTURES
    if not folder.exists():
        write_pictures(folder)
    (node,) = editor.add("diffusion")
    # An update that takes long enough to be looked at.
    slow = {"steps": LONG, "gradient_accumulation": 100, "checkpoint_every": 0, "preview_every": 0}
    seed = 95 + len(list((comfy_host.base / "output" / "fluxduel").glob("*")))
    prompt = comfy_host.queue(graph_of(folder, node, seed=seed, **slow))
    toolbar(editor).wait_for()
    panel = editor.panel("diffusion")
    # In the midst of the second one.
    records(comfy_host, node, 1)
    comfy_host.interrupt()
    panel.get_by_text("Cancelled: the stage ends once this update is done").wait_for()
    assert "cancelling" in panel.inner_text() and "diffusion stage: cancelling" in editor.label("diffusion")
    assert comfy_host.get(f"/fluxduel/history?node={node}")["state"] == "cancelling"
    # There is nothing to ask any more.
    assert toolbar(editor).count() == 0
    if SHOTS:
        renderer = "nodes2" if editor.page.locator(f'[data-node-id="{node}"]').count() else "classic"
        editor.screenshot(Path(SHOTS) / f"cancelling-{renderer}.png", TRAINING_NODES["diffusion"])
    assert failure(comfy_host.wait(prompt)).startswith("interrupted")
    panel.get_by_text("stopped").wait_for()
    assert "Cancelled: the stage" not in panel.inner_text()
