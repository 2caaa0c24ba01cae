"""Previews in the training nodes: a row with a slider over the steps, all of them large, also after a reload."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.test_resumed_run import graph_of
from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import STAGE_2, two_stage_graph, write_pictures

# Where to leave pictures of what was seen, for people.
SHOTS = os.environ.get("FLUXDUEL_SHOTS")
STEPS = ["before training", "update 2", "delivered: update 4"]


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "previews-page")


def train(host: ComfyHost, folder: Path, node: str, prompts: str = "a cat\na boat\na 猫", **stage: Any) -> None:
    graph = graph_of(folder, node, **{"steps": 4, "preview_every": 2, "preview_steps": 2} | stage)
    for each in graph.values():
        if "preview_prompts" in each["inputs"]:
            each["inputs"]["preview_prompts"] = prompts
    assert failure(host.wait(host.queue(graph))) is None


def slider(editor: Editor) -> Locator:
    return editor.page.get_by_label("Update of the previews")


def pictures(editor: Editor) -> list[str]:
    """Each prompt's picture as a data URL, to tell one from another."""
    editor.next_frame()
    return editor.page.locator("figure canvas").evaluate_all("all => all.map(canvas => canvas.toDataURL())")


def wait_for(editor: Editor, step: str) -> list[str]:
    """The pictures of a step, once they are drawn."""
    editor.page.wait_for_function(
        """step => {
            const cells = [...document.querySelectorAll("figure canvas")];
            const drawn = canvas => canvas.getContext("2d").getImageData(0, 0, 1, 1).data[3] === 255;
            return cells.length > 0 && cells.every(c => c.ariaLabel?.startsWith(step + ":") && drawn(c));
        }""",
        arg=step,
    )
    return pictures(editor)


def test_the_steps_are_gone_through_and_come_back_after_a_reload(
    editor: Editor, browser: Browser, comfy_host: ComfyHost, folder: Path
) -> None:
    (node,) = editor.add("diffusion")
    assert slider(editor).is_disabled() and editor.page.get_by_text("Pictures that this LoRA makes").count() == 1
    height = editor.page.evaluate("id => app.graph.getNodeById(id).size[1]", node)
    nodes2 = editor.page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    # A seed for each renderer: of the same graph the host would run nothing again.
    train(comfy_host, folder, node, seed=20 + nodes2)
    seen = [wait_for(editor, STEPS[2])]
    assert len(set(seen[0])) == 3
    assert editor.page.locator("figcaption").all_inner_texts() == ["a cat", "a boat", "a 猫"]
    assert "2 steps, euler, guidance 3.5, seed 0" in editor.page.content()
    # By keyboard alone.
    slider(editor).focus()
    for key, step in (("Home", STEPS[0]), ("ArrowRight", STEPS[1])):
        editor.page.keyboard.press(key)
        seen.append(wait_for(editor, step))
        assert slider(editor).get_attribute("aria-valuetext") == step
    assert len({tuple(each) for each in seen}) == 3

    # It has room of its own, and the chart keeps its.
    chart, shown = editor.chart("diffusion").bounding_box(), editor.page.locator("figure canvas").first.bounding_box()
    assert chart and shown and chart["height"] > 100 and shown["height"] > 80 and shown["y"] > chart["y"] + 100
    assert editor.page.evaluate("id => app.graph.getNodeById(id).size[1]", node) == height

    saved = editor.page.evaluate("() => app.graph.serialize()")
    assert "fluxduel_previews" not in json.dumps(saved)
    editor.reload()
    editor.open(saved)
    assert wait_for(editor, STEPS[2]) == seen[0]
    second = Editor(browser, comfy_host, nodes2=nodes2)
    try:
        second.open(saved)
        assert wait_for(second, STEPS[2]) == seen[0]
        # By keyboard, too.
        second.page.get_by_role("button", name="enlarge").focus()
        second.page.keyboard.press("Enter")
        large = second.page.get_by_role("dialog", name="Previews: updates across, prompts down")
        picture = large.get_by_role("img")
        second.page.wait_for_function("() => document.querySelector('dialog img')?.naturalWidth > 300")
        shown, around = picture.bounding_box(), large.bounding_box()
        assert shown and around and around["width"] > 0.9 * second.page.viewport_size["width"]
        assert shown["width"] > 700 or shown["height"] > 700
        with second.page.context.expect_page() as opened:
            large.get_by_role("link", name="new tab").click()
        opened.value.wait_for_load_state()
        assert opened.value.evaluate("() => document.images[0].naturalWidth") > 300
        second.page.keyboard.press("Escape")
        large.wait_for(state="detached")
        assert not second.problems
    finally:
        second.page.close()


def test_who_looks_at_an_early_step_stays_there(classic: Editor, comfy_host: ComfyHost, folder: Path) -> None:
    (node,) = classic.add("diffusion")
    train(comfy_host, folder, node, seed=30)
    wait_for(classic, STEPS[2])
    slider(classic).focus()
    classic.page.keyboard.press("Home")
    first = wait_for(classic, STEPS[0])
    # More steps of the same run: its pictures are there, and new ones come.
    train(comfy_host, folder, node, seed=30, steps=8)
    classic.page.wait_for_function("() => document.querySelector('input[aria-label*=previews]').max === '4'")
    assert wait_for(classic, STEPS[0]) == first
    classic.page.keyboard.press("End")
    assert wait_for(classic, "delivered: update 8") != first


def test_the_last_picture_of_stage_2_is_named_by_the_state_that_is_delivered(
    editor: Editor, comfy_host: ComfyHost, folder: Path
) -> None:
    """A rate that spoils the LoRA at once: what is delivered, and shown after the last update, is the start."""
    (page_node,) = editor.add("adversarial")
    nodes2 = editor.page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    graph = two_stage_graph(folder.name)
    renamed = {old: page_node if old == STAGE_2 else f"api{old}" for old in graph}
    for each in graph.values():
        for name, value in each["inputs"].items():
            if isinstance(value, list):
                each["inputs"][name] = [renamed[value[0]], value[1]]
    graph[STAGE_2]["inputs"] |= {
        "steps": 3, "learning_rate": 0.5, "preview_every": 2, "target_steps": 1, "seed": 70 + nodes2,
        "validate_every": 4,
    }  # fmt: skip
    entry = comfy_host.wait(comfy_host.queue({renamed[old]: each for old, each in graph.items()}))
    assert failure(entry) is None
    delivered = wait_for(editor, "delivered: the start")
    assert editor.page.get_by_text("delivered: the start").is_visible()
    if SHOTS:
        renderer = "nodes2" if nodes2 else "classic"
        editor.screenshot(Path(SHOTS) / f"delivered-{renderer}.png", TRAINING_NODES["adversarial"])
    slider(editor).focus()
    editor.page.keyboard.press("ArrowLeft")
    assert wait_for(editor, "update 2") != delivered
    editor.page.keyboard.press("Home")
    assert wait_for(editor, STEPS[0]) == delivered


def test_a_run_that_is_finished_shows_all_of_its_steps(classic: Editor, comfy_host: ComfyHost, folder: Path) -> None:
    """Where it trains nothing, the server draws nothing, and tells of no preview."""
    (node,) = classic.add("diffusion")
    train(comfy_host, folder, node, seed=50)
    (node,) = classic.add("diffusion")
    # Other prompts: the host runs the node again, and the run is the one from before, with its pictures.
    train(comfy_host, folder, node, seed=50, prompts="a house")
    wait_for(classic, STEPS[2])
    assert slider(classic).get_attribute("max") == "2"
    assert classic.page.locator("figcaption").all_inner_texts() == ["a cat", "a boat", "a 猫"]


def test_a_run_without_previews_shows_none_of_another(classic: Editor, comfy_host: ComfyHost, folder: Path) -> None:
    (node,) = classic.add("diffusion")
    train(comfy_host, folder, node, seed=40)
    wait_for(classic, STEPS[2])
    train(comfy_host, folder, node, seed=41, preview_every=0)
    classic.page.get_by_text("none yet").wait_for()
    assert classic.page.locator("figure").count() == 0 and slider(classic).is_disabled()


def test_the_step_that_is_looked_at_outlives_undo(editor: Editor, comfy_host: ComfyHost, folder: Path) -> None:
    """The editor makes all nodes anew when it undoes."""
    (node,) = editor.add("diffusion")
    nodes2 = editor.page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    train(comfy_host, folder, node, seed=60 + nodes2)
    wait_for(editor, STEPS[2])
    slider(editor).focus()
    editor.page.keyboard.press("Home")
    first = wait_for(editor, STEPS[0])
    axis = editor.page.locator("button[aria-pressed]").last
    axis.click()
    assert axis.get_attribute("aria-pressed") == "true"
    editor.open(editor.page.evaluate("() => app.graph.serialize()"))
    assert wait_for(editor, STEPS[0]) == first
    assert axis.get_attribute("aria-pressed") == "true"
